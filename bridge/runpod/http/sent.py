"""Whether a call may have left this process: asked of the connection itself, not guessed from the name of an exception.

Everything that reaches a server goes through a connection's `send`. What fails before its first call of a request (an
address, a proxy, a CA bundle, a name, a handshake, a header) has sent nothing, whatever it raises.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from typing import Any

import urllib3

from bridge.errors import ApiError, Unanswered, Unreachable
from bridge.telemetry import redact

_this_thread = threading.local()  # a call is made by one thread from its beginning to its end


def begin() -> None:
    """A new call: nothing of it has left."""
    _this_thread.left = False


def left() -> bool:
    """Whether something of this thread's call has left."""
    return getattr(_this_thread, "left", True)


def noting(base: Any) -> Any:
    """The pool's connection class, which notes that a request leaves, and says of a fault before it that none has.

    urllib3 gives a handshake that is reset, closed or late the same names as a lost answer.
    """

    class NotingConnection(base):  # type: ignore[misc]
        _connecting = False

        def connect(self) -> None:
            self._connecting = True  # what it sends now is for the proxy: CONNECT
            try:
                super().connect()
            except urllib3.exceptions.NewConnectionError:
                raise
            except Exception as error:
                raise urllib3.exceptions.NewConnectionError(self, _words(error)) from error
            finally:
                self._connecting = False

        def send(self, data: Any) -> None:
            if self.sock is None and self.auto_open:
                self.connect()
            if not self._connecting:
                _this_thread.left = True
            super().send(data)

    return NotingConnection


def fault_of(error: Exception, where: str) -> ApiError:
    """What an exception of the HTTP library means for the call to `where` that raised it."""
    if left():
        return lost(error, where)
    causes = list(_causes(error))
    proxy = next((cause for cause in causes if isinstance(cause, urllib3.exceptions.ProxyError)), None)
    if proxy is not None:
        said = _words(getattr(proxy, "original_error", None) or proxy)
        return Unreachable(f"cannot reach {where} through the proxy: {said}", reason="proxy")
    said = _words(error.__cause__ or error)
    if any(isinstance(cause, ssl.SSLError | urllib3.exceptions.SSLError) for cause in causes):
        return Unreachable(f"cannot connect to {where}: TLS: {said}", reason="tls")
    return Unreachable(f"cannot connect to {where}: {said}")


def lost(error: Exception, where: str) -> Unanswered:
    """What it means that a call to `where` which has left is not answered."""
    return Unanswered(f"{where}: no answer: {_words(error)}")


def _words(error: BaseException) -> str:
    """What an exception says, bounded, without the password of a proxy's URL."""
    try:
        said = str(error)
    except Exception:  # noqa: BLE001  (no exception's own defect may hide what it means for the call)
        said = ""
    return str(redact("", f"{type(error).__name__}: {said}"))[:500]


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception, and all that it came from."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [one.__cause__, one.__context__]
        waiting += [value for value in (getattr(one, "reason", None), getattr(one, "original_error", None))
                    if isinstance(value, BaseException)]  # fmt: skip
