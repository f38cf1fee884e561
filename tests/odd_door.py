"""Celery settings of a worker whose door does not look at what follows a request, as that of an older release."""

from __future__ import annotations

from bridge.doors.celery.consumer import check_message

check_message._FOLLOWS = {}
