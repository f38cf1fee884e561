"""What `bridge check` says of files that it alone does not need."""

from __future__ import annotations

from pathlib import Path

from bridge.cli.check.files import of_files
from bridge.settings import Settings


def test_check_faults_the_files_with_which_no_worker_starts(tmp_path: Path) -> None:
    """They are read once HTTP is served, which `bridge check` does not do."""
    short, tokens = tmp_path / "short", tmp_path / "tokens.toml"
    short.write_text("short")
    tokens.write_text("nonsense")
    settings = Settings(
        bridge_api=True, bridge_api_tokens_file=tokens, bridge_console=True, bridge_console_password_file=short
    )
    told = of_files(settings)
    assert [(level, says.partition(":")[0]) for level, _, says in told] == [
        ("FAULT", "BRIDGE_API_TOKENS_FILE"),
        ("FAULT", "BRIDGE_CONSOLE_PASSWORD_FILE"),
    ]
    assert of_files(settings.model_copy(update={"bridge_api": False, "bridge_console": False})) == []
