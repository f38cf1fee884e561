"""Work that asks a script of Redis now and then, written as a generator: alone, or several in step.

Each piece yields what it asks and is sent the answer. In step, what all of them ask at the same point goes to Redis in
one round trip; what fails there fails for that piece alone.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from redis.exceptions import NoScriptError

from bridge.errors import LedgerFault, LedgerUnavailable
from bridge.redis import round_trips
from bridge.redis.outage import mapped

if TYPE_CHECKING:
    import redis

T = TypeVar("T")
U = TypeVar("U")


class Asked(NamedTuple):
    """One call of a script, which may be repeated (I15)."""

    sha: str
    source: str
    keys: Sequence[Any]
    args: Sequence[Any]

    def command(self) -> tuple[Any, ...]:
        """As it is sent where the server knows the script."""
        return ("EVALSHA", self.sha, len(self.keys), *self.keys, *self.args)


Work = Generator[Asked, Any, T]


def ask(client: redis.Redis, asked: Asked, what: str = "the ledger's Redis") -> Any:
    """The answer to one call. Raises LedgerUnavailable, or LedgerFault."""
    with mapped(what):
        try:
            return round_trips.call(client, asked.command())
        except NoScriptError:
            return round_trips.call(client, ("EVAL", asked.source, len(asked.keys), *asked.keys, *asked.args))


def alone(client: redis.Redis, work: Work[T], what: str = "the ledger's Redis") -> T:
    """Do one piece of work to its end."""
    try:
        asked = next(work)
        while True:
            try:
                answer = ask(client, asked, what)
            except (LedgerUnavailable, LedgerFault) as error:
                asked = work.throw(error)
            else:
                asked = work.send(answer)
    except StopIteration as over:
        return over.value  # type: ignore[no-any-return]


def in_step(client: redis.Redis, works: Iterable[Work[T]]) -> list[T]:
    """What each came to, in their order. Raises the first error that one did not deal with, once all have ended."""
    going, results = list(works), dict[int, T]()
    moves: list[tuple[int, Callable[[], Asked]]] = [(i, work.__next__) for i, work in enumerate(going)]
    error: Exception | None = None
    while moves:
        asked: list[tuple[int, Asked]] = []
        for i, move in moves:
            try:
                asked.append((i, move()))
            except StopIteration as over:
                results[i] = over.value
            except Exception as its_own:  # noqa: BLE001  (the others' leases and permits must not be left behind for it)
                error = error or its_own
        moves = [(i, _next(going[i], answer)) for (i, _), answer in zip(asked, _answers(client, asked), strict=True)]
    if error is not None:
        raise error
    return [results[i] for i in range(len(going))]


def both(client: redis.Redis, one: Work[T], other: Work[U]) -> tuple[T, U]:
    """Two pieces in step, each with a result of its own."""
    works: list[Work[Any]] = [one, other]
    first, second = in_step(client, works)
    return first, second


def _next(work: Work[Any], answer: Any) -> Callable[[], Asked]:
    return lambda: work.throw(answer) if isinstance(answer, Exception) else work.send(answer)


def _answers(client: redis.Redis, asked: Sequence[tuple[int, Asked]]) -> list[Any]:
    """The answers, or why there is none: of all in one round trip, where one of them fails of each in its own."""
    try:
        with mapped():
            return round_trips.call_many(client, [one.command() for _, one in asked]) if asked else []
    except (LedgerUnavailable, LedgerFault):
        return [_answer(client, one) for _, one in asked]


def _answer(client: redis.Redis, asked: Asked) -> Any:
    try:
        return ask(client, asked)
    except (LedgerUnavailable, LedgerFault) as error:
        return error
