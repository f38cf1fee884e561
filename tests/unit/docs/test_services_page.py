"""docs/services.md is what the code does: every document on it is read, every table is the code's own list."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from bridge.doors.commands import COMMANDS
from bridge.doors.json import amqp
from bridge.doors.parse import Command, Request, take
from bridge.job.contract.models import schemas
from bridge.job.document import Held, document
from bridge.job.enums import DeadReason, EventName
from bridge.job.record import Record
from bridge.ledger import Names
from tests.support.house import ROOT

PAGE = ROOT / "docs" / "services.md"
TEXT = PAGE.read_text()
DOCUMENTS: list[tuple[str, str]] = re.findall(r"^```json ([\w-]+)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def section(heading: str) -> str:
    """What stands below a heading."""
    return TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def first_column(heading: str) -> set[str]:
    """The words in backticks of the first column."""
    cells = re.findall(r"^\|([^|]*)\|", section(heading), re.MULTILINE)
    return {word for cell in cells for word in re.findall(r"`([^`]+)`", cell)}


@pytest.mark.parametrize(("kind", "text"), DOCUMENTS)
def test_each_document_shown_is_one(kind: str, text: str) -> None:
    """Requests and commands are taken as they stand, and all of them fit their schemas."""
    document: dict[str, Any] = json.loads(text)
    if kind in {"request", "command"}:
        found = take(text.encode(), {}, "stream", {}, "requests" if kind == "request" else "commands")
        assert isinstance(found, Request if kind == "request" else Command), found
    inner = document.get("data", document) if kind in {"request", "command"} else document
    jsonschema.validate(inner, schemas()[kind])


def test_a_document_of_each_kind_is_shown() -> None:
    """None was lost, nor left out by the pattern above."""
    assert {kind for kind, _ in DOCUMENTS} == {"request", "command", "command-answer", "event"}
    assert TEXT.count("```json") == len(DOCUMENTS)


def test_the_commands_and_their_names_are_those_of_the_door() -> None:
    """Each op has its line, and each line the names that it takes."""
    lines = dict(re.findall(r"^\| `(\w+)` \|(.*)\|$", section("Commands"), re.MULTILINE))
    del lines["op"]
    assert {f"bridge.{op}" for op in lines} == set(COMMANDS)
    for op, names in lines.items():
        assert set(re.findall(r"`(\w+)`", names)) == COMMANDS[f"bridge.{op}"][1], op


def test_the_reasons_are_those_of_dead_letters() -> None:
    """A closed list."""
    assert first_column("Refusals") == {reason.value for reason in DeadReason}


def test_the_page_says_which_names_of_a_document_may_be_null() -> None:
    """Each name that every document has stands in one of the two lists."""
    told = document(Held(Record(id="a", endpoint="demo"), {}))
    never = re.findall(r"`(\w+)`", section("What may be null").partition("|")[0])
    assert set(never) == {name for name, value in told.items() if value is not None}
    assert first_column("What may be null") == {name for name, value in told.items() if value is None}


def test_the_events_are_those_that_are_told() -> None:
    """By their names behind `bridge.job.`; those of endpoints are told elsewhere."""
    shown = {word.rpartition(".")[2] for word in first_column("What comes back") if word != "type"}
    assert shown == {event.value for event in EventName} - {"purged", "paused", "resumed"}


def test_the_names_are_those_that_are_declared_and_read() -> None:
    """Queues, keys and streams."""
    where, names = section("Where things are"), Names()
    for queue, key in amqp.QUEUES.values():
        assert f"`{queue}`" in where
        assert f"`{key.removesuffix('.#')}`" in where
    for stream in (names.requests, names.commands, names.events, names.results, names.dead, names.reply("<reply_to>")):
        assert f"`{stream}`" in where
    assert f"`{amqp.EXCHANGE}`" in where


def test_code_shown_is_code_that_runs() -> None:
    """A block in JavaScript is part of the examples, which tests run as they stand."""
    examples = "".join(path.read_text() for path in (ROOT / "docs" / "examples").glob("*/client.mjs"))
    blocks = re.findall(r"^```js\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    assert blocks
    assert all(block in examples for block in blocks)


def test_every_schema_named_is_published() -> None:
    """docs/schema has a file for it."""
    named = set(re.findall(r"`([a-z-]+)`", section("Schemas").partition("DIRECTORY`")[2]))
    assert named
    assert all((ROOT / "docs" / "schema" / f"{name}.json").is_file() for name in named)
