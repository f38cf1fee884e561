"""Settings as the rooms below take them."""

from __future__ import annotations

from bridge.engine.accept.back_pressure import Marks
from bridge.job.change import Rules
from bridge.ledger.streams.outbox import Bounds
from bridge.settings import Settings


def rules(settings: Settings) -> Rules:
    """The table's rules, from the settings."""
    return Rules(
        grace_ms=int(settings.bridge_unanswered_grace_s * 1000),
        submits_max=settings.bridge_submits_max,
        delivery=settings.bridge_delivery,
        retention_ms=int(settings.bridge_retention_s * 1000),
        output_retention_ms=int(settings.bridge_output_retention_s * 1000),
        id_memory_ms=int(settings.bridge_id_memory_s * 1000),
        inline_limit=settings.bridge_inline_limit,
        message_limit=settings.bridge_message_limit,
        chunk_events_max=settings.bridge_chunk_events_max,
        chunks_bytes_max=settings.bridge_chunks_bytes_max,
    )


def marks(settings: Settings) -> Marks:
    """The high-water marks of the doors, from the settings."""
    return Marks(
        waiting=settings.bridge_waiting_max,
        waiting_bytes=settings.bridge_waiting_bytes_max,
        memory_ratio=settings.bridge_memory_ratio_max,
        outbox=settings.bridge_outbox_max,
        scheduled=settings.bridge_scheduled_max,
    )


def bounds(settings: Settings) -> Bounds:
    """What the event stream may grow to, from the settings."""
    age_ms = int(settings.bridge_events_retention_s * 1000)
    return Bounds(settings.bridge_events_max, settings.bridge_events_bytes_max, age_ms)
