"""Sends what follows a request. What no retry mends ends with that one follow-up; an outage holds nobody's thread.

Celery's own way sleeps in the thread for as long as the publish policy says, whatever went wrong, and fails the request
whose end is told. Here each message is tried where it is sent: a fault of its own is told to `Behind` at once, and for
an outage the finish comes again by itself (I8).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from amqp.exceptions import (
    AMQPError,
    ContentTooLarge,
    FrameSyntaxError,
    MessageNacked,
    NotFound,
    PreconditionFailed,
)
from celery.app.task import Context
from celery.exceptions import BackendError, Reject
from kombu.compression import get_encoder
from kombu.exceptions import LimitExceeded, OperationalError
from kombu.utils.functional import maybe_list
from kombu.utils.uuid import uuid

from bridge.errors import LedgerError
from bridge.redis.outage import is_outage as redis_is_away

if TYPE_CHECKING:
    from celery import Celery

#: RabbitMQ's words for what is wrong with one message: its size, a header, an exchange that is not there.
_OF_MESSAGE = (ContentTooLarge, FrameSyntaxError, PreconditionFailed, NotFound)
_OUTAGES = (
    OSError, AMQPError, MessageNacked, OperationalError, LimitExceeded, BackendError, LedgerError, Reject, MemoryError,
)  # fmt: skip
#: What a signature may say of retries: a stranger's patience would hold our threads.
_PATIENCE = frozenset({"retry", "retry_policy"})
#: An attempt that fails within so many seconds met a connection that had died while nobody used it.
_STALE_S = 1.0


def cause_of(error: BaseException) -> BaseException:
    """What kombu has wrapped as its own."""
    while isinstance(error, OperationalError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def is_outage(error: BaseException) -> bool:
    """Whether the same may be sent or stored later. What no retry mends is not, though kombu calls some of it so.

    Kombu's Redis transport counts every KeyError among its connection errors, that of an unknown codec as well.
    """
    error = cause_of(error)
    return redis_is_away(error) or (isinstance(error, _OUTAGES) and not isinstance(error, _OF_MESSAGE))


#: The headers by which what follows a request is part of its caller's trace.
_TRACE = ("traceparent", "tracestate")


class Behind(Protocol):
    """The request that is followed."""

    @property
    def request_id(self) -> str:
        """Its task id."""
        ...

    def unsendable(self, follow_up: Context, error: Exception) -> None:
        """Tell whoever waits for a follow-up that it will never run."""
        ...

    def held(self, follow_up: Mapping[str, Any]) -> bool:
        """Whether a signature that the broker could not take is kept, and sent when the broker is back."""
        ...


_behind: ContextVar[Behind | None] = ContextVar("bridge_behind", default=None)


def behind() -> Behind | None:
    """The request whose end this thread tells."""
    return _behind.get()


@contextmanager
def sending_behind(request: Behind) -> Iterator[None]:
    """What this thread sends inside follows that request."""
    token = _behind.set(request)
    try:
        yield
    finally:
        _behind.reset(token)


class _Broker:
    """While it is away one thread at a time finds out whether it is back; the others' finishes come again."""

    def __init__(self) -> None:
        self._away = ""
        self._looking = threading.Lock()

    def send(self, call: Callable[[], Any]) -> Any:
        if not self._away:
            return self._try(call)
        if not self._looking.acquire(blocking=False):
            raise OperationalError(self._away)
        try:
            return self._try(call)
        finally:
            self._looking.release()

    def _try(self, call: Callable[[], Any]) -> Any:
        started = time.monotonic()
        try:
            try:
                found = call()
            except Exception as error:
                if not is_outage(error) or time.monotonic() - started > _STALE_S:
                    raise
                found = call()
        except Exception as error:
            if is_outage(error) and not isinstance(error, MessageNacked):  # that is one queue, and full
                self._away = f"{type(error).__name__}: {error}"
            raise
        self._away = ""
        return found


_broker = _Broker()


def send_task(app: Celery, celerys: Callable[..., Any], name: str, args: Any, kwargs: Any, options: Any) -> Any:
    """`Celery.send_task`, which everything that follows a request goes through, one call for each message."""
    request, parent = behind(), app.current_worker_task
    if request is None and parent is None:
        return celerys(name, args, kwargs, **options)
    options = {k: v for k, v in options.items() if k not in _PATIENCE}
    if request is None:  # of a control task, say: it has no end but this one, and Celery's patience is short here
        if options.get("compression"):
            get_encoder(options["compression"])  # what kombu does with what it does not know, but at once
        return celerys(name, args, kwargs, **options)
    options["task_id"] = options.get("task_id") or uuid()  # a second try sends the same task
    trace = {name: value for name in _TRACE if (value := getattr(getattr(parent, "request", None), name, None))}
    if trace:  # what it has been given itself goes before
        options["headers"] = {**trace, **(options.get("headers") or {})}
    try:
        return _broker.send(lambda: celerys(name, args, kwargs, retry=False, **options))
    except Exception as error:
        if not is_outage(error):
            request.unsendable(_context(name, args, kwargs, options), error)
        elif not request.held({"task": name, "args": args or (), "kwargs": kwargs or {}, "options": options}):
            raise
    result: Any = app.AsyncResult(options["task_id"])
    if parent is not None and options.get("add_to_parent", True):
        parent.add_trail(result)  # whoever looks at the request's children finds how it ended
    return result


def _context(name: str, args: Any, kwargs: Any, options: Mapping[str, Any]) -> Context:
    """The follow-up as if it had been received: what waits for it is found there."""
    return Context(
        id=options["task_id"],
        task=name,
        args=args or (),
        kwargs=kwargs or {},
        group=options.get("group_id"),
        group_index=options.get("group_index"),
        chord=options.get("chord"),
        chain=options.get("chain"),
        errbacks=maybe_list(options.get("link_error")),
        root_id=options.get("root_id"),
        parent_id=options.get("parent_id"),
        ignore_result=bool(options.get("ignore_result")),
        delivery_info={},
    )
