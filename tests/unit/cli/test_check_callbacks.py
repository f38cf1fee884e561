"""What `bridge check` says of callbacks where the shell knows less than the workers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from bridge.cli.check.callbacks import of_callbacks


def test_a_shell_without_the_secret_does_not_say_that_the_workers_have_none() -> None:
    """They have an environment of their own."""
    callbacks = SimpleNamespace(count=lambda: 3, failing=list)
    has: Any = SimpleNamespace(
        settings=SimpleNamespace(bridge_callback_secret_file=None),
        ledger=SimpleNamespace(callbacks=callbacks, now=lambda: 0),
    )
    ((level, _, said),) = of_callbacks(has)
    assert level == "WARN"
    assert said == "3 are owed, and BRIDGE_CALLBACK_SECRET_FILE is not set in this shell (the workers may have it)"
