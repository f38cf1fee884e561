"""Free calls divided among endpoints before any of them has started one."""

from __future__ import annotations

import pytest

from bridge.engine.calls.threads import Callers, Planned


@pytest.mark.parametrize(
    ("wanted", "got"),
    [
        ([100, 100], [8, 8]),
        ([1, 100], [1, 14]),
        ([1, 1, 1, 100], [1, 1, 1, 13]),
        ([100], [14]),
        ([100] * 20, [1] * 16 + [0] * 4),
    ],
)
def test_owners_of_one_turn_never_plan_more_than_is_free_and_share_it(wanted: list[int], got: list[int]) -> None:
    """Who comes first leaves what he does not want; alone, one owner leaves some to those that come meanwhile."""
    callers = Callers("x", 16)
    planned = Planned(callers, len(wanted))
    found = []
    for n, many in enumerate(wanted):
        found.append(min(many, planned.free_for(f"owner {n}")))
        planned.take(found[-1])
    assert found == got
    assert sum(found) <= callers.free
