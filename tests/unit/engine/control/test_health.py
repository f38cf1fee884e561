"""The verdict of an endpoint and its reasons, as a pure function of what was heard."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.engine.control import judge


def heard(queued: int = 0, **workers: int) -> dict[str, Any]:
    """RunPod's counters."""
    return {"jobs": {"inQueue": queued}, "workers": workers}


@pytest.mark.parametrize(
    ("runpod", "more", "verdict"),
    [
        (heard(running=1), {}, "ok"),
        (heard(5, idle=1, unhealthy=3), {}, "ok"),
        (heard(), {}, "cold"),
        (heard(3), {}, "cold"),
        (heard(3, unhealthy=2), {}, "unhealthy"),
        (heard(0, unhealthy=2), {}, "cold"),
        (heard(3, throttled=2), {}, "throttled"),
        (heard(3, throttled=2, unhealthy=1), {}, "unhealthy"),
        (heard(running=1), {"paused": True}, "paused"),
        (None, {"paused": True}, "paused"),
        (heard(running=1), {"trouble": "out_of_credit"}, "out_of_credit"),
        (None, {"fault": "out_of_credit"}, "out_of_credit"),
        (None, {"trouble": "unauthorised"}, "unauthorised"),
        (None, {"trouble": "forbidden"}, "unauthorised"),
        (None, {"trouble": "endpoint_unknown"}, "unreachable"),
        (None, {"fault": "busy"}, "throttled"),
        (None, {"fault": "unreachable"}, "unreachable"),
        (heard(running=1), {"away": "HTTP 502"}, "unreachable"),
        (heard(running=1), {"away": "HTTP 502", "trouble": "unauthorised"}, "unauthorised"),
        (heard(running=1), {"away": "HTTP 502", "paused": True}, "paused"),
        (None, {}, "unreachable"),
    ],
)
def test_the_verdict_and_why(runpod: dict[str, Any] | None, more: dict[str, Any], verdict: str) -> None:
    """Every verdict but `ok` says why; an operator's pause is told before all else."""
    found, reasons = judge(runpod, **{"paused": False, "trouble": None, **more})
    assert found == verdict
    assert bool(reasons) is (verdict != "ok")


def test_a_paused_endpoint_in_trouble_says_both() -> None:
    """So that a resume surprises nobody."""
    verdict, reasons = judge(None, paused=True, trouble="out_of_credit", why="by ann (new image)")
    assert verdict == "paused"
    assert reasons[0] == "paused by ann (new image)"
    assert "402" in reasons[1]
