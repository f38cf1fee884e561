"""What is shown again and again in a terminal: the whole screen, until q or Ctrl-C."""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from bridge.errors import LedgerUnavailable

if TYPE_CHECKING:
    from rich.console import RenderableType


def console(*, most: int = 200) -> Any:
    """Rich's: colour on a terminal alone (and none where NO_COLOR is set); in a pipe lines are as long as they are."""
    from rich.console import Console  # noqa: PLC0415  (only what is shown to people needs it)

    made = Console(highlight=False, markup=False, emoji=False)
    return made if made.is_terminal else Console(highlight=False, markup=False, emoji=False, width=most)


def live(draw: Callable[[], RenderableType], every_s: float, instead: str) -> None:
    """Draw until q or Ctrl-C. Raises UsageError where there is no terminal: `instead` does without one."""
    from rich.live import Live  # noqa: PLC0415

    if not (sys.stdout.isatty() and sys.stdin.isatty()):
        raise click.UsageError(f"this needs a terminal; {instead} does without")
    with _keys() as key, Live(console=console(), screen=True, auto_refresh=False) as screen:
        while True:
            began = time.monotonic()
            screen.update(_drawn(draw), refresh=True)
            while (left := began + every_s - time.monotonic()) > 0:
                if key(left) in {"q", "Q", "\x1b"}:
                    return


def _drawn(draw: Callable[[], RenderableType]) -> RenderableType:
    """A ledger that is away comes back: until then it is said."""
    from rich.text import Text  # noqa: PLC0415

    try:
        return draw()
    except LedgerUnavailable as error:
        return Text(f"the ledger does not answer: {error}\ntrying again ...", style="red")


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Keys as they are pressed; the terminal is left as it was."""
    import termios  # noqa: PLC0415  (not on Windows)
    import tty  # noqa: PLC0415

    handle = sys.stdin.fileno()
    before = termios.tcgetattr(handle)

    def key(wait_s: float) -> str:
        ready, _, _ = select.select([handle], [], [], wait_s)
        return sys.stdin.read(1) if ready else ""

    try:
        tty.setcbreak(handle)
        yield key
    finally:
        termios.tcsetattr(handle, termios.TCSADRAIN, before)
