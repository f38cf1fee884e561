"""Celery settings of a team with a codec that is known to the worker, and fails as one that is unknown."""

from __future__ import annotations

from kombu.compression import register


def _broken(_raw: bytes) -> bytes:
    raise KeyError("snappy")


register(_broken, _broken, "application/x-broken", aliases=["broken"])
