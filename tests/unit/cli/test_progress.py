"""How fast a batch goes, and how long the rest takes."""

from __future__ import annotations

from bridge.cli.terminal.progress import Pace, duration


def test_the_pace_is_that_of_the_last_minute() -> None:
    """A slow beginning is forgotten; nothing is said before anything has ended."""
    now = 0.0
    pace = Pace(lambda: now)
    assert pace.told(100) == ""
    for second in range(1, 301):
        now = float(second)
        pace.ended(1 if second <= 200 else 5)
    assert pace.told(300) == ", 5.0/s, 60 s left"
    assert pace.told(0) == ", 5.0/s"


def test_what_is_slow_is_told_by_the_minute() -> None:
    """No 0.0/s."""
    now = 0.0
    pace = Pace(lambda: now)
    now = 120.0
    pace.ended(4)
    assert pace.told(60) == ", 2.0/min, 30 min left"


def test_a_time_is_told_in_the_unit_that_fits() -> None:
    """Whole seconds and minutes, hours and days with a tenth."""
    assert [duration(s) for s in (0.4, 40, 600, 9_000, 200_000)] == ["0 s", "40 s", "10 min", "2.5 h", "2.3 days"]
