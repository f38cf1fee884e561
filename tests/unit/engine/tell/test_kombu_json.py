"""Kombu's JSON as the bridge writes and reads it: what a plain reader makes of it, and what comes back."""

from __future__ import annotations

from typing import Any

import pytest
from kombu.utils import json as kombu_json

from bridge.engine.tell.kombu_json import dumps, loads

PLAIN = {"__type__": "uuid", "__value__": 7}
MARKED = PLAIN | {"__plain__": True}


@pytest.mark.parametrize(
    "value", [PLAIN, [PLAIN], {"a": [{"b": PLAIN}]}, {"__type__": "x", "__value__": PLAIN}, (PLAIN,)]
)
def test_plain_json_that_looks_like_one_of_kombus_types_is_read_by_any_kombu_and_comes_back_as_it_was(
    value: Any,
) -> None:
    """A third name keeps it from being decoded, at any depth."""
    assert '"__plain__"' in dumps(kombu_json.loads(dumps(value)))
    assert loads(dumps(value)) == (list(value) if isinstance(value, tuple) else value)


def test_a_type_that_is_registered_elsewhere_is_written_as_it_came() -> None:
    """Whoever gets the follow-up reads it; what is plain in it stays so."""
    came = kombu_json.dumps({"args": [{"__type__": "no.Such", "__value__": {"of": MARKED}}]}, separators=(",", ":"))
    assert dumps(loads(came)) == came


def test_objects_with_more_or_fewer_names_are_left_alone() -> None:
    """They are nobody's spelling."""
    value = [{"__type__": "uuid"}, PLAIN | {"more": 1}, MARKED | {"__plain__": 1}]
    assert loads(dumps(value)) == value == kombu_json.loads(dumps(value))
