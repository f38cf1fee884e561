"""docs/callbacks.md says what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path

from bridge.callbacks.post import Outcome
from bridge.doors.parse import Request, take
from bridge.engine.tell.callbacks import _HOST
from bridge.job.callback import EVENT_NAMES
from bridge.job.words import END_EVENT, EventName
from bridge.settings import Settings

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "callbacks.md").read_text()


def test_the_request_shown_is_taken_by_the_doors() -> None:
    """With its callback."""
    (shown,) = re.findall(r"^```json request\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    taken = take(shown.encode(), {}, "stream", {}, "requests", "bridge:requests")
    assert isinstance(taken, Request), taken
    assert taken.run.callback is not None
    assert taken.run.callback.events == tuple(json.loads(shown)["callback"]["events"])


def test_every_event_that_can_be_asked_for_is_named_and_is_one() -> None:
    """Beside `end`, each is an event of a job; none of those is missing."""
    row = next(line for line in PAGE.splitlines() if line.startswith("| `events`"))
    assert set(re.findall(r"`(\w+)`", row)) - {"events"} == set(EVENT_NAMES)
    of_endpoints = {"purged", "paused", "resumed"}
    assert set(EVENT_NAMES) - {"end"} == {event.value for event in EventName} - of_endpoints
    assert {event.value for event in END_EVENT.values()} <= set(EVENT_NAMES)


def test_every_outcome_of_a_try_is_named() -> None:
    """As the metric's label has it."""
    row = next(line for line in PAGE.splitlines() if line.startswith("| `bridge_callbacks_total"))
    assert set(re.findall(r"`(\w+)`", row)) == {*_HOST, "given_up", "skipped"}
    assert set(_HOST) == set(re.findall(r"`(\w+)` ?\(", str(Outcome.__doc__))) | {"away"}


def test_the_settings_named_are_settings() -> None:
    """Here and in the table of all settings, where each has its line."""
    named = set(re.findall(r"BRIDGE_CALLBACK_[A-Z_]+", PAGE))
    assert named <= {name.upper() for name in Settings.model_fields}


def test_the_lines_that_verify_stand_in_the_programs_that_the_tests_run() -> None:
    """Python's and Node's; Go's says that it is not run."""
    for language, program in {"python": "callback-python/receiver.py", "js": "callback-node/receiver.mjs"}.items():
        text = (DOCS / "examples" / program).read_text()
        (shown,) = re.findall(rf"^```{language}\n((?:from|import).*?)^```", PAGE, re.MULTILINE | re.DOTALL)
        assert "webhook.verify(body, " in text
        assert "import" in shown and ".verify(body, " in shown  # noqa: PT018
    assert "not run by the tests" in PAGE[: PAGE.index("```go")]
