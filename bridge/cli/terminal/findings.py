"""What a look has found, as lines: no word is broken on a terminal, and each finding is one line in a pipe."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Iterable

import click

#: Level, what it is about, what it says.
Finding = tuple[str, str, str]
#: Control characters, but tab and line end.
_COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_COLOURS = {"FAULT": "red", "WARN": "yellow", "ok": "green"}


def told(found: Iterable[Finding]) -> None:
    """A line each; colour on a terminal alone, where click knows one."""
    rows = list(found)
    wide = max([10, *(len(about) for _, about, _ in rows)])
    for level, about, says in rows:
        coloured = click.style(f"{level:5}", fg=_COLOURS.get(level), bold=level == "FAULT")
        hanging(f"{coloured} {about:{wide}} ", says, 7 + wide)


def hanging(start: str, says: str, indent: int) -> None:
    """A line; what does not fit a terminal goes on under its own beginning."""
    if not sys.stdout.isatty():
        click.echo(start + says)
        return
    width = max(20, shutil.get_terminal_size().columns - indent)
    lines = textwrap.wrap(says, width, break_on_hyphens=False) or [""]
    click.echo(start + lines[0])
    for line in lines[1:]:
        click.echo(" " * indent + line)


def printable(text: str) -> str:
    """What a stranger has written, without what a terminal would obey."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def readable(text: str) -> str:
    """The same of what has lines of its own, as a handler's error: these are kept, and whatever is no command."""
    return _COMMANDS.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))
