"""Who has logged in: a signed cookie, so that every process of the bridge knows him, and none has to remember.

Only a session that was ended by logout is remembered, in the ledger, until it would have been over.
The key is kept in the ledger, for all processes; the password is part of it, so that a new one ends all sessions.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bridge.errors import SettingsError
from bridge.telemetry import tell

#: Seconds that a session lasts, and that a password is believed before its file is looked at again.
SESSION_S, LOOK_S = 12 * 3600, 1.0
NAME_MAX = 60
#: Wrong passwords that one address may send at once, and seconds until it may send one more.
TRIES, TRY_S, ADDRESSES_MAX = 5, 5.0, 10_000
PASSWORD_MIN = 8


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who looks at a page. `name` is "" for whoever reaches a loopback address; `address` is the connection's."""

    name: str
    address: str
    logged_in: bool = False
    session: str = ""  # of who has logged in: random, another at each login

    @property
    def signs(self) -> str:
        """What the forms of this visitor are signed for."""
        return f"{self.name}\0{self.session}" if self.session else self.name


class Password:
    """Of a file that is read again when it changes."""

    def __init__(self, path: Path) -> None:
        """Raises SettingsError when it cannot be read, or holds too short a one."""
        self._path = path
        self._known = b""
        self._look_at = 0.0
        try:
            self._known = self._read()
        except (OSError, ValueError) as error:
            raise SettingsError(f"BRIDGE_CONSOLE_PASSWORD_FILE: {_says(error)}") from None

    def value(self) -> bytes:
        """As it is now; while the file cannot be read, as it was."""
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_S
            try:
                self._known = self._read()
            except (OSError, ValueError) as error:
                tell("console.password_unreadable", error=_says(error))
        return self._known

    def _read(self) -> bytes:
        found = self._path.read_bytes().strip()
        if len(found) < PASSWORD_MIN:
            fault = f"holds fewer than {PASSWORD_MIN} characters"
            raise ValueError(fault)
        return found


class Sessions:
    """Signs and reads. `secret` is the ledger's; it is asked for once."""

    def __init__(self, secret: Callable[[], str], password: Password | None) -> None:
        """Without a password nobody logs in; forms are signed all the same."""
        self._secret = secret
        self._password = password
        self._kept: str | None = None

    def ready(self) -> None:
        """Blocks: asks for the secret. Raises LedgerUnavailable."""
        if self._kept is None:
            self._kept = self._secret()

    def opened(self, name: str) -> str:
        """A cookie's value for whoever has given the password."""
        told = base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")
        said = f"{told}.{int(time.time()) + SESSION_S}.{secrets.token_hex(16)}"
        return f"{said}.{self._sign('session', said)}"

    def who(self, cookie: str) -> tuple[str, str] | None:
        """The name and the session's id in it; None for one that is none of ours, or is over."""
        said, _, signature = cookie.rpartition(".")
        if not said or not hmac.compare_digest(self._sign("session", said).encode(), signature.encode()):
            return None
        told, until, session = (*said.split("."), "", "")[:3]
        if not session or int(until) < time.time():  # one without an id is an older version's
            return None
        return base64.urlsafe_b64decode(told + "=" * (-len(told) % 4)).decode(errors="replace"), session

    def form(self, who: str) -> str:
        """What a form of this person and session carries: a page from elsewhere cannot know it."""
        return self._sign("form", who)

    def is_form(self, who: str, token: str) -> bool:
        """Whether it came from a form of ours."""
        return hmac.compare_digest(self.form(who).encode(), token.encode(errors="replace"))

    def _sign(self, kind: str, said: str) -> str:
        password = self._password.value() if self._password is not None else b""
        key = hashlib.sha256((self._kept or "").encode() + b"\0" + password).digest()
        return hmac.new(key, f"{kind}\0{said}".encode(), hashlib.sha256).hexdigest()


class Tries:
    """How many wrong passwords an address may still send. Used by one event loop."""

    def __init__(self) -> None:
        """None was sent yet."""
        self._spent: dict[str, tuple[float, float]] = {}

    def wait_s(self, address: str) -> float:
        """0 where it may try now."""
        return max(0.0, self._used(address) - (TRIES - 1)) * TRY_S

    def failed(self, address: str) -> None:
        """One more."""
        if len(self._spent) >= ADDRESSES_MAX:
            self._spent.pop(next(iter(self._spent)))
        self._spent[address] = self._used(address) + 1, time.monotonic()

    def _used(self, address: str) -> float:
        used, at = self._spent.get(address, (0.0, 0.0))
        return max(0.0, used - (time.monotonic() - at) / TRY_S) if used else 0.0


def _says(error: OSError | ValueError) -> str:
    return f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
