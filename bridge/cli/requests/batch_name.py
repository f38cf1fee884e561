"""What a batch is called, and so whether a run goes on with an earlier one: the ids of its lines begin with the name.

It is made of the file's content, so that another content under the same file name is another batch. A file that was
mended is still the batch whose results it has, as long as all that was paid for stands in it still.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9._:\-]+")
#: Characters of a name, and of a file's name in it: an id has 200, with the line's number.
NAME_MAX, STEM_MAX = 180, 100
DIGITS = 10


def fitting(name: str) -> str:
    """As it may stand in an id."""
    return _NOT_IN_IDS.sub("-", name)[:NAME_MAX]


def read_through(path: Path) -> tuple[int, str]:
    """How many lines have something in them, and the SHA-256 of all of it, hex."""
    digest, count = hashlib.sha256(), 0
    with path.open("rb") as lines:
        for line in lines:
            digest.update(line)
            count += bool(line.strip())
    return count, digest.hexdigest()


def of_content(path: Path, content: str, arguments: Mapping[str, Any], endpoint: str) -> str:
    """The name of a file of that content: with another endpoint or policy its lines are other requests."""
    said = json.dumps([content, endpoint, arguments.get("policy")], sort_keys=True)
    return f"{fitting(path.stem)[:STEM_MAX]}-{hashlib.sha256(said.encode()).hexdigest()[:DIGITS]}"


def batch_name(
    path: Path,
    out: Path,
    done: Mapping[str, tuple[str, str]],
    fresh: str,
    mark_of: Callable[[int, bytes], str],
) -> str:
    """The name of this run's batch, where the user has given none.

    `done` is what the file of results holds: id -> status, mark. `mark_of` tells a line of the input file from one that
    has changed. Raises UsageError when the results are of a file that has changed in more than what was refused.
    """
    names = {request_id.rpartition(":")[0] for request_id in done}
    if not names or fresh in names:
        return fresh
    paid = {request_id: mark for request_id, (status, mark) in done.items() if status != "REJECTED"}
    marks = _marks(path, {int(number) for one in paid if (number := one.rpartition(":")[2]).isdecimal()}, mark_of)
    still = {
        name
        for name in names
        if all(
            mark in {"", marks.get(request_id.rpartition(":")[2])}
            for request_id, mark in paid.items()
            if request_id.rpartition(":")[0] == name
        )
    }
    if len(still) == 1:
        return still.pop()
    raise click.UsageError(
        f"{out} holds results of {', '.join(sorted(names))}, and {path} has another content now. To go on with that "
        f"batch say --name {min(names)}: lines that have changed since their result are told. For a new batch name "
        f"another --out, or give it a --name of its own"
    )


def _marks(path: Path, numbers: set[int], mark_of: Callable[[int, bytes], str]) -> dict[str, str]:
    """By number, of those lines."""
    with path.open("rb") as lines:
        return {
            str(number): mark_of(number, raw)
            for number, raw in enumerate(lines, start=1)
            if number in numbers and raw.strip()
        }
