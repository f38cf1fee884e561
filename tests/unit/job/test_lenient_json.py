"""What handlers and RunPod write is read as far as it can be, and no further."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.job.lenient_json import DEPTH_MAX, read_json, spelled, whole, word


@pytest.mark.parametrize(("begin", "end"), [("[", "]"), ('{"a[\\"[":', "}"), ('[{"[": ', "}]")])
def test_what_is_nested_deeper_than_readers_can_follow_is_refused(begin: str, end: str) -> None:
    """By the levels that there are, whatever stands in texts beside them."""
    each = begin.replace('"a[\\"["', "").replace('"["', "").count("[") + begin.count("{")
    most = DEPTH_MAX // each
    read_json(begin * most + "1" + end * most)
    for more in (most + 1, 5_000):
        with pytest.raises(ValueError, match="deeper than 300 levels"):
            read_json(begin * more + "1" + end * more)
    assert len(read_json("[" + "[]," * 10_000 + "{}]")) == 10_001  # many are not deep


@pytest.mark.parametrize(
    ("body", "why"), [(b"\xff", "not UTF-8"), (b"", "no JSON"), (b'{"a":', "no JSON"), (b"<html>", "no JSON")]
)
def test_what_is_no_json_says_why(body: bytes, why: str) -> None:
    """In words for an operator."""
    with pytest.raises(ValueError, match=why):
        read_json(body)


def test_numbers_that_no_double_holds_are_infinite_and_others_what_they_are() -> None:
    """One of them changes none beside it."""
    assert read_json("[1, 2.5, " + "9" * 5_000 + ", 1e999]") == [1, 2.5, math.inf, math.inf]
    assert isinstance(read_json("[1, " + "9" * 5_000 + "]")[0], int)
    assert spelled(read_json("[NaN, " + "9" * 5_000 + ', "NaN"]')) == ('[null,null,"NaN"]', 2)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda kind: st.lists(kind) | st.dictionaries(st.text(), kind),
)


@given(value=VALUES)
def test_whatever_was_read_is_spelled_so_that_everybody_can_read_it(value: object) -> None:
    """UTF-8, strict JSON, and the same again when it is read anew."""
    text, nonfinite = spelled(value)
    text.encode()
    again = json.loads(text, parse_constant=pytest.fail)
    assert spelled(again) == (text, 0)
    assert nonfinite or again == value


def test_a_time_or_a_count_is_a_whole_number_that_others_read_exactly() -> None:
    """Everything else is none."""
    assert [whole(value) for value in (0, 7, 7.9, 2**53)] == [0, 7, 7, 2**53]
    for odd in (-1, 2**53 + 1, 1e300, math.nan, math.inf, True, "7", None, [7]):
        assert whole(odd) is None
    assert (word("RUNNING"), word("x\ud800"), word(7), word("y" * 100)) == ("RUNNING", r"x\ud800", None, "y" * 63)
