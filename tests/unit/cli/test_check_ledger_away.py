"""`bridge check` beside a ledger that does not answer."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from bridge.cli.check import check as room
from bridge.cli.exit_codes import ExitCode


def test_a_ledger_that_does_not_answer_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that hangs costs a quarter of a minute each time it is asked, and nothing is shown meanwhile."""

    class Has:
        """Whatever needs the ledger fails the test."""

        def __getattr__(self, name: str) -> Any:
            assert name != "ledger"
            return None

    monkeypatch.setattr(room, "bridge", Has)
    monkeypatch.setattr(room, "_ledger", lambda _has: [("FAULT", "ledger", "does not answer")])
    for other in ("_results", "_endpoints", "_blobs", "_traces", "of_files"):
        monkeypatch.setattr(room, other, lambda _has: [])
    monkeypatch.setattr(room, "_broker", lambda _has, *, ledger_answers: [] if not ledger_answers else [("", "", "")])
    done = CliRunner().invoke(room.check, ["--json"], standalone_mode=False)
    assert done.exception is None
    assert done.return_value == ExitCode.UNHEALTHY
    assert '"about": "ledger"' in done.stdout
