"""One POST to a receiver: to an address that was judged, by TLS of its host's name, within one deadline.

No redirect is followed, no proxy is used, and of the answer only its status counts. Nothing here raises what a receiver
does: every outcome is a value.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import certifi

from bridge.callbacks.addresses import NotAllowed, Unresolved
from bridge.job.callback import HTTPS_PORT, parts_of

if TYPE_CHECKING:
    from bridge.callbacks.addresses import Addresses

#: Seconds to connect to one address; how many of a host's are tried.
CONNECT_S, ADDRESSES_MAX = 5.0, 3
#: Bytes of the answer that are read, so that the receiver sees a good end; what is more is left unread.
ANSWER_MAX = 16 * 1024
GONE = 410
#: Seconds that a receiver's Retry-After counts for.
RETRY_AFTER_MAX_S = 3_600.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one try.

    `delivered` (2xx), `gone` (410), `refused` (any other status), `slow` (no answer in time, or a broken one), `away`
    (no connection, no TLS), `not_allowed` (the address is out of bounds; nothing was sent).
    """

    kind: str
    says: str
    code: int = 0
    retry_after_s: float = 0.0


class _Deadline:
    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    def left(self) -> float:
        """Raises TimeoutError once it is over."""
        left = self._at - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline is over")
        return left


class _Timed(io.RawIOBase):
    """A socket's incoming bytes, none of them after the deadline: one byte a second is no progress."""

    def __init__(self, sock: socket.socket, deadline: _Deadline) -> None:
        self._sock, self._deadline = sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(self._deadline.left())
        return self._sock.recv_into(buffer)


class _Wire(http.client.HTTPConnection):
    """HTTP/1.1 over a connection that stands already."""

    def __init__(self, name: str, sock: socket.socket, deadline: _Deadline) -> None:
        super().__init__(name)
        self.sock = sock
        self._deadline = deadline

    def connect(self) -> None:
        """Never a second one."""
        raise OSError("the connection is closed")

    def send(self, data: Any) -> None:
        """All of it, before the deadline."""
        view = memoryview(data)
        while view:
            self.sock.settimeout(self._deadline.left())
            view = view[self.sock.send(view) :]

    def answer(self) -> http.client.HTTPResponse:
        """Its head; the body can be read."""
        found = http.client.HTTPResponse(self, method="POST")  # type: ignore[arg-type]
        found.begin()
        while 102 <= found.status < 200:  # noqa: PLR2004  (processing, early hints: the answer is still to come)
            found.headers = None  # type: ignore[assignment]  # so that it reads the next head
            found.begin()
        return found

    def makefile(self, _mode: str) -> io.BufferedReader:
        """What the answer is read from: http.client asks the socket for it."""
        return io.BufferedReader(_Timed(self.sock, self._deadline))


class Poster:
    """Thread-safe; a connection for each call."""

    def __init__(self, addresses: Addresses, *, timeout_s: float, ca_file: Path | None, agent: str) -> None:
        """`ca_file` holds authorities that are trusted beside the system's."""
        self._addresses = addresses
        self._timeout_s = timeout_s
        self._agent = agent
        self._tls = ssl.create_default_context()
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
        paths = ssl.get_default_verify_paths()
        if not (paths.cafile or paths.capath):  # a system that has none: those that `requests` brings
            self._tls.load_verify_locations(certifi.where())
        if ca_file is not None:
            self._tls.load_verify_locations(ca_file)

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Outcome:
        """Send it; at the deadline the try is over, whatever it waits for."""
        deadline = _Deadline(self._timeout_s)
        try:
            parts = parts_of(url)
            host, port = (parts.hostname or "").rstrip("."), parts.port or HTTPS_PORT
            found = self._addresses.resolve(host, port, deadline.left())
        except NotAllowed as error:
            return Outcome("not_allowed", str(error))
        except Unresolved as error:
            return Outcome("away", str(error))
        except ValueError as error:
            return Outcome("not_allowed", f"the address {error}")
        try:
            sock = self._connected(found, port, host, deadline)
        except (OSError, ssl.CertificateError) as error:
            return Outcome("away", _said(error))
        sent = {
            "Host": host_header(host, port),
            "User-Agent": self._agent,
            "Connection": "close",
            "Content-Length": str(len(body)),
            **headers,
        }
        if parts.username is not None:
            who = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            sent["Authorization"] = "Basic " + base64.b64encode(who.encode()).decode()
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        with contextlib.closing(sock):
            return _exchange(_Wire(host, sock, deadline), target, body, sent)

    def _connected(self, found: list[str], port: int, host: str, deadline: _Deadline) -> ssl.SSLSocket:
        """To the first of the addresses that answers; the certificate must be the host name's."""
        fault: OSError = OSError("no address")
        for address in found[:ADDRESSES_MAX]:
            try:
                plain = socket.create_connection((address, port), timeout=min(CONNECT_S, deadline.left()))
            except TimeoutError as error:
                fault = error
                continue
            except OSError as error:
                fault = error
                continue
            try:
                plain.settimeout(deadline.left())
                return self._tls.wrap_socket(plain, server_hostname=host)
            except BaseException:
                plain.close()
                raise
        raise fault


def host_header(host: str, port: int) -> str:
    """As HTTP writes it: the port only where it is another than HTTPS' own."""
    name = f"[{host}]" if ":" in host else host
    return name if port == HTTPS_PORT else f"{name}:{port}"


def _exchange(wire: _Wire, target: str, body: bytes, headers: Mapping[str, str]) -> Outcome:
    try:
        wire.putrequest("POST", target, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            wire.putheader(name, value)
        wire.endheaders(body)
        answer = wire.answer()
    except TimeoutError:
        return Outcome("slow", "no answer in time")
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Outcome("slow", _said(error))
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        answer.read(ANSWER_MAX)
    code, pause = answer.status, _retry_after(answer.getheader("Retry-After"))
    if 200 <= code < 300:  # noqa: PLR2004
        return Outcome("delivered", f"{code}", code)
    if code == GONE:
        return Outcome("gone", "410: the receiver wants no more of this", code)
    moved = ": redirects are not followed" if 300 <= code < 400 else ""  # noqa: PLR2004
    return Outcome("refused", f"{code}{moved}", code, pause)


def _retry_after(text: str | None) -> float:
    """Seconds; 0 for none, and for dates: our own pauses do for those."""
    return min(float(text), RETRY_AFTER_MAX_S) if text and text.isascii() and text.isdigit() else 0.0


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]
