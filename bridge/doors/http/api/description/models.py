"""What is told over HTTP alone, as models: for the description, and for whoever makes a client of it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bridge.doors.http.problem import REASONS


class Told(BaseModel):
    """Readers must accept names they do not know: within a major version only additions are made."""

    model_config = ConfigDict(extra="allow")


class ProblemDocument(Told):
    """Every error, as problem+json (RFC 9457)."""

    type: str = Field(description="urn:bridge:problem:<reason>")
    title: str
    status: int
    reason: str = Field(json_schema_extra={"enum": list(REASONS)})
    detail: str = Field(description="what is wrong, and what to do")
    field: str | None = Field(default=None, description="the argument at fault")
    id: str | None = None


class CancelAnswer(Told):
    """What a cancel came to."""

    id: str | None
    job_id: str | None = None
    status: str | None = None
    outcome: Literal["cancelled", "requested", "already_ended", "unknown"] = Field(
        description="unknown: nobody has sent it yet; if it comes within a day, it is cancelled at once"
    )


class PauseAnswer(Told):
    """Whether submits leave for the endpoint."""

    endpoint: str
    paused: bool
    reason: str | None = None


class PurgeAnswer(Told):
    """RunPod's answer to purge-queue, and what became of the bridge's own."""

    endpoint: str
    status: Any = None
    removed: int | None = None
    settled: int
    checked: int
    unread: int


class HealthAnswer(Told):
    """RunPod's counters and the bridge's own."""

    endpoint: str
    endpoint_id: str | None = None
    runpod: dict[str, Any] | None = None
    bridge: dict[str, Any]
    verdict: str | None = None
    reasons: list[Any]


class ByBody(BaseModel):
    """Who asks, where it is not the token alone."""

    model_config = ConfigDict(extra="forbid")

    by: str | None = Field(default=None, max_length=255)


class ReasonBody(ByBody):
    """And why."""

    reason: str | None = Field(default=None, max_length=255)


class PurgeBody(ByBody):
    """And whether what has not left yet ends too."""

    pending: bool = False
