"""What a fresh checkout's `scripts/test` leaves to `scripts/test --all`, which is what CI runs.

A test is slow (`@pytest.mark.slow`) when it takes some five seconds or more, or needs another world's tool (npm, a
browser, Prometheus), and a quicker one still tests its promise: in another pool, by another broker, with fewer kills.
"""

from __future__ import annotations

from typing import Any

import pytest

#: pytest's `-m` of a run without them.
WITHOUT = "not slow"


def slow(*values: Any) -> Any:
    """Values for a test that is slow with these alone."""
    return pytest.param(*values, marks=pytest.mark.slow)
