"""What `bridge check` says of files that are read once HTTP is served: with a bad one no worker starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge.errors import SettingsError

if TYPE_CHECKING:
    from bridge.cli.terminal.findings import Finding
    from bridge.settings import Settings


def of_files(settings: Settings) -> list[Finding]:
    """Nothing where they can be used."""
    from bridge.doors.http.api.tokens import Tokens  # noqa: PLC0415
    from bridge.doors.http.console.session import Password  # noqa: PLC0415

    tokens = settings.bridge_api_tokens_file if settings.bridge_api else None
    password = settings.bridge_console_password_file if settings.bridge_console else None
    found: list[Finding] = []
    for read, path in ((Tokens, tokens), (Password, password)):
        if path is not None:
            try:
                read(path)
            except SettingsError as error:
                found.append(("FAULT", "settings", str(error)))
    return found
