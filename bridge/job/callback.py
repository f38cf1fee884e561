"""Where a caller wants to be called back: checked whole, without asking anybody's DNS.

Whether the host may be called at all is for `bridge.callbacks` to say: it knows the settings, and where the name leads.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

#: Characters of an address.
URL_MAX = 2_048
HTTPS_PORT = 443
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.\-]*[A-Za-z0-9_])?\.?|[0-9A-Fa-f:.]+")

CallbackEvent = Literal[
    "accepted", "submitted", "queued", "started", "progress", "chunk", "retried",
    "end", "completed", "failed", "cancelled", "timed_out", "lost", "rejected",
]  # fmt: skip
#: What is told where `events` says nothing: however it ends.
DEFAULT_EVENTS: tuple[CallbackEvent, ...] = ("end",)


def parts_of(url: str) -> SplitResult:
    """An address in its parts. Raises ValueError, with the rule that it breaks."""
    if len(url) > URL_MAX:
        raise ValueError(f"must have at most {URL_MAX} characters")
    if not url.isascii() or not url.isprintable() or set(url) & set(' "<>\\^`{|}'):
        raise ValueError(
            "must be ASCII without spaces, quotes and backslashes (xn--... for other names, %20 in a path)"
        )
    rule = "must be an address such as https://shop.example.com/hooks/jobs"
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:
        raise ValueError(rule) from None
    if parts.scheme != "https":
        raise ValueError("must begin with https://")
    if not host or not _HOST.fullmatch(host) or port == 0:
        raise ValueError(rule)
    if parts.fragment or url.endswith("#"):
        raise ValueError("must have no #fragment: it would not be sent")
    return parts


def _url(value: str) -> str:
    parts_of(value)
    return value


class Callback(BaseModel):
    """Whom the bridge tells by HTTPS what becomes of a request; docs/callbacks.md."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    url: Annotated[str, AfterValidator(_url)] = Field(description="https, at a host that the bridge may call")
    events: tuple[CallbackEvent, ...] | None = Field(default=None, description="which are told; default: the end")

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, data: object) -> object:
        """JSON has lists where the frozen model has tuples."""
        if isinstance(data, Mapping) and isinstance(data.get("events"), list):
            return {**data, "events": tuple(data["events"])}
        return data

    @field_validator("events")
    @classmethod
    def _some(cls, events: tuple[CallbackEvent, ...] | None) -> tuple[CallbackEvent, ...] | None:
        if events is not None and not events:
            raise ValueError("must name at least one event")
        return events

    @property
    def host(self) -> str:
        """Name and port, as pauses are kept by it."""
        return host_of(self.url)

    def kept(self) -> dict[str, Any]:
        """As a record keeps it (Long.CALLBACK): `lane` tells callbacks of one request apart by their address."""
        lane = hashlib.sha256(self.url.encode()).hexdigest()[:8]
        events = DEFAULT_EVENTS if self.events is None else self.events
        return {"lane": lane, "host": self.host, "url": self.url, "events": list(events)}


def host_of(url: str) -> str:
    """`shop.example.com:443` of an address: all of it that logs and dead letters may show."""
    parts = urlsplit(url)
    name = (parts.hostname or "").rstrip(".")
    return f"{f'[{name}]' if ':' in name else name}:{parts.port or HTTPS_PORT}"


EVENT_NAMES: tuple[str, ...] = get_args(CallbackEvent)
