"""Who may ask: bearer tokens, kept as hashes in a file that is read again when it changes.

A token has 256 random bits, so a plain SHA-256 of it is as hard to turn back as any other.

    [tokens.web]
    sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    tenant = "acme"
    rights = ["submit", "read"]
    rate = 50
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from bridge.errors import SettingsError
from bridge.telemetry import tell
from bridge.validation import rule

Right = Literal["submit", "read", "read_all", "control"]
ALL_RIGHTS: frozenset[Right] = frozenset({"submit", "read", "read_all", "control"})
NAME = r"^[A-Za-z0-9_.\-]{1,40}$"
#: What a token of ours begins with: programs that look for leaked secrets find it.
PREFIX = "bridge_"
#: Seconds between two looks whether the file has changed.
LOOK_S = 1.0
#: Seconds between two lines about a file that stays as unreadable as it was.
TELL_S = 10.0
NO_TOKENS = "has no tokens: somebody may be writing it; to lock everybody out, end the bridge"
FILE_MAX = 4 * 1024 * 1024


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    tenant: Annotated[str, Field(pattern=NAME)] | None = None
    rights: Annotated[list[Right], Field(min_length=1)]
    rate: Annotated[float, Field(gt=0, le=1_000_000)] = 100.0

    @field_validator("rate", mode="before")
    @classmethod
    def _whole_rate(cls, value: object) -> object:
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _has_a_tenant(self) -> _Row:
        if self.tenant is None and {"submit", "read"} & set(self.rights) and "read_all" not in self.rights:
            fault = "tenant: is required, unless the token may read_all"
            raise ValueError(fault)
        return self


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    tokens: dict[Annotated[str, Field(pattern=NAME)], _Row] = {}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the name of the token, its tenant ("" for none), and what it may."""

    name: str
    tenant: str
    rights: frozenset[Right]

    def may(self, *any_of: Right) -> bool:
        """Whether it has one of these rights."""
        return not self.rights.isdisjoint(any_of)

    def owns(self, tenant: str) -> bool:
        """Whether a request of this tenant is its own."""
        return tenant == self.tenant


#: Where no file says who may ask: everybody who reaches the loopback address.
ANYBODY = Caller("", "", ALL_RIGHTS)


class Rate:
    """So many requests a second, and as many at once (at least one)."""

    def __init__(self, per_s: float) -> None:
        """Full at first."""
        self.per_s = per_s
        self._most = max(1.0, per_s)
        self._left = self._most
        self._at = time.monotonic()

    def wait_s(self) -> float:
        """0 where one more may pass now, which is counted; else seconds until it may."""
        now = time.monotonic()
        self._left = min(self._most, self._left + (now - self._at) * self.per_s)
        self._at = now
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) / self.per_s


class Tokens:
    """Of one file. Used by one event loop."""

    def __init__(self, path: Path) -> None:
        """Raises SettingsError when it cannot be read now: nobody could ask anything."""
        self._path = path
        self._lock = threading.Lock()
        self._known: dict[str, tuple[Caller, Rate]] = {}
        self._stamp: object = None
        self._look_at = self._tell_at = 0.0
        self._fault = ""
        try:
            self._read()
        except (OSError, ValueError) as error:
            raise SettingsError(f"BRIDGE_API_TOKENS_FILE: {_says(error)}") from None

    def find(self, token: str) -> tuple[Caller, Rate] | None:
        """Whose token it is, and how much more it may ask; None for nobody's."""
        if time.monotonic() >= self._look_at:
            try:
                self._read()
            except (OSError, ValueError) as error:  # while it is replaced, or after a slip of the pen: as before
                self._unread(_says(error))
        return self._known.get(hashed(token))

    @staticmethod
    def parse(text: str) -> list[str]:
        """The names of the tokens in it. Raises ValueError with a sentence for each fault."""
        try:
            return list(_rows(text))
        except ValueError as error:
            raise ValueError(_says(error)) from None

    def _unread(self, why: str) -> None:
        """Looked at again in LOOK_S, and told less often."""
        now = time.monotonic()
        if why != self._fault or now >= self._tell_at:
            tell("api.tokens_unreadable", error=why)
            self._fault, self._tell_at = why, now + TELL_S
        self._look_at = now + LOOK_S

    def _read(self) -> None:
        with self._lock:
            self._look_at = time.monotonic() + LOOK_S
            found = os.stat(self._path)  # noqa: PTH116  (follows the link that a mounted secret is)
            stamp = found.st_ino, found.st_mtime_ns, found.st_size
            if stamp == self._stamp:
                self._fault = ""
                return
            if found.st_size > FILE_MAX:
                fault = f"has {found.st_size} bytes; at most {FILE_MAX} are read"
                raise ValueError(fault)
            rows = _rows(self._path.read_text())
            if not rows:
                raise ValueError(NO_TOKENS)
            before = {caller.name: (caller, rate) for caller, rate in self._known.values()}
            known: dict[str, tuple[Caller, Rate]] = {}
            for name, row in rows.items():
                if row.sha256 in known:
                    fault = f"tokens.{name}.sha256: is that of tokens.{known[row.sha256][0].name} too"
                    raise ValueError(fault)
                caller = Caller(name, row.tenant or "", frozenset(row.rights))
                was = before.get(name)
                rate = was[1] if was and was[1].per_s == row.rate else Rate(row.rate)
                known[row.sha256] = caller, rate
            self._known, self._stamp, self._fault = known, stamp, ""
        tell("api.tokens", count=len(known))


def row(name: str, sha256: str, tenant: str | None, rights: Sequence[str], rate: float) -> str:
    """The file's lines of one token."""
    said = ", ".join(f'"{right}"' for right in rights)
    lines = [
        f'[tokens."{name}"]',
        f'sha256 = "{sha256}"',
        f'tenant = "{tenant}"' if tenant else "",
        f"rights = [{said}]",
    ]
    return "\n".join([*filter(None, lines), f"rate = {rate:g}"]) + "\n\n"


def _rows(text: str) -> dict[str, _Row]:
    return _File.model_validate(tomllib.loads(text)).tokens


def hashed(token: str) -> str:
    """What the file has of a token: SHA-256, hex."""
    return hashlib.sha256(token.encode()).hexdigest()


def new_token() -> str:
    """256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def _says(error: OSError | ValueError) -> str:
    match error:
        case OSError():
            return f"cannot be read: {error.strerror}"
        case ValidationError():
            faults = error.errors(include_url=False, include_input=False)
            return "; ".join(f"{'.'.join(map(str, fault['loc']))}: {rule(fault)}" for fault in faults)
        case tomllib.TOMLDecodeError():
            return f"is no TOML: {error}"
        case _:
            return str(error)
