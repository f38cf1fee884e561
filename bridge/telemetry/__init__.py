"""Everything the bridge tells of itself: code says `tell("submit.unanswered", ...)`; logs and metrics hear it.

An event's name is what one searches logs for; `catalogue.py` says who should care (its level) and what it means.
Hands out what is used all over the house; the rest is taken from its own file.
"""

from bridge.telemetry import metrics
from bridge.telemetry.events import subscribe, tell
from bridge.telemetry.logs import configure_logging
from bridge.telemetry.redact import blotted, redact

__all__ = ["blotted", "configure_logging", "metrics", "redact", "subscribe", "tell"]
