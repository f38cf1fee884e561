"""Signs after Standard Webhooks, with secrets that may change while the bridge runs."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from standardwebhooks.webhooks import Webhook

from bridge.settings.callbacks import secrets_of
from bridge.settings.key_file import KeyFile
from bridge.telemetry import tell


class Signer:
    """Thread-safe. Costs one `stat` of the file a callback."""

    def __init__(self, path: Path) -> None:
        """The file holds one secret, or two while receivers change over; it is read again when it changes."""
        self._file = KeyFile(path)
        self._lock = threading.Lock()
        self._text = ""
        self._webhooks: Sequence[Webhook] = ()

    def headers(self, message_id: str, body: str) -> dict[str, str]:
        """Id, time of this try, and a signature by each secret. Raises OSError or ValueError while there was never one.

        A file that has been made unusable is told, and what was read before it signs.
        """
        now = datetime.now(UTC)
        signatures = [webhook.sign(message_id, now, body) for webhook in self._current()]
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(signatures),
        }

    def _current(self) -> Sequence[Webhook]:
        text = self._file.read()
        with self._lock:
            if text != self._text:
                try:
                    self._webhooks = [Webhook(secret) for secret in secrets_of(text)]
                except ValueError as error:
                    if not self._webhooks:
                        raise
                    tell("callback.secret_unusable", error=str(error))
                self._text = text
            return self._webhooks
