"""A channel with one client, and what Redis refuses for now as what kombu and Celery know: a broken connection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from kombu.transport import redis as kombu_redis

from bridge.doors.celery.consumer.redis_transport import scripts
from bridge.redis.outage import is_outage, said
from bridge.telemetry import redact, tell

#: Seconds between tries in an outage, and between looks that nobody has rung for, as long as kombu's own BRPOP waits.
LOOK_S = 1.0
#: Messages that cannot be read wait here until the dead letters hold them.
UNREADABLE = "bridge.unreadable"
ResponseError = kombu_redis.exceptions.ResponseError


class Away(kombu_redis.exceptions.ConnectionError):
    """Redis cannot do now what it was asked (`bridge/redis/outage.py`): to kombu and Celery a broken connection."""


def broken(errors: tuple[type[BaseException], ...]) -> tuple[type[BaseException], ...]:
    """Those of kombu's connection errors that mean a broken connection: on Redis it counts any KeyError as one."""
    return tuple(error for error in errors if not issubclass(error, LookupError))


class PatientChannel(kombu_redis.Channel):
    """One client for as long as the channel lives, and outages told from faults."""

    #: What cannot be done while Redis is away (of "take", "ack", "rest").
    _away: frozenset[str] = frozenset()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As kombu's, which asks Redis something."""
        with self.outages():
            super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """A client; all that kombu does passes here. Raises Away for what another try may do."""
        with self.outages(), super().conn_or_acquire(client) as found:
            yield found

    @contextmanager
    def outages(self, what: str = "rest") -> Iterator[None]:
        """What Redis refuses, as Away; "take", "ack" or "rest"."""
        try:
            yield
        except ResponseError as error:
            if is_outage(error):
                self.outage(what, error)
            elif said(error).startswith("WRONGTYPE"):
                self.tidy()
            else:
                raise
            raise Away(said(error)) from error

    def outage(self, what: str, error: BaseException) -> None:
        """Redis is up, and does not do what it was asked: told once, and tried again with pauses."""
        if not self._away:
            tell("broker.unavailable", error=f"{type(error).__name__}: {redact('', said(error))}")
        self._away |= {what}

    def outage_is_over(self, what: str) -> None:
        """It was done."""
        self._away -= {what}

    def tidy(self, queues: Iterable[str] = ()) -> None:
        """Set aside what stands where the transport's keys are to be. Raises Away when Redis does not write."""
        lists = [self._q_for_pri(queue, pri) for queue in {*queues, *self.active_queues} for pri in self.priority_steps]  # type: ignore[no-untyped-call]
        kinds = {self.unacked_key: "hash", **dict.fromkeys([*lists, UNREADABLE], "list")}
        for exchange in {*queues, *self.state.exchanges}:
            kinds[self.keyprefix_queue % exchange] = "set"
        try:
            scripts.tidy(
                self.own_client,
                self.named(self.unacked_index_key),
                self.named(self.unacked_mutex_key),
                self.unacked_mutex_expire,
                {self.named(key): kind for key, kind in kinds.items()},
            )
        except ResponseError as error:
            self.outage("rest", error)
            raise Away(said(error)) from error
        self.outage_is_over("rest")

    def named(self, key: str) -> str:
        """The key as Redis has it."""
        return f"{self.global_keyprefix}{key}"

    @cached_property
    def own_client(self) -> Any:
        """For as long as the channel lives."""
        return super()._create_client()  # type: ignore[no-untyped-call]

    def _create_client(self, asynchronous: bool = False) -> Any:
        return super()._create_client(asynchronous=True) if asynchronous else self.own_client  # type: ignore[no-untyped-call]
