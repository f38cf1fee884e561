"""Celery settings of a team that stop a worker in a way that nobody foresaw."""

from __future__ import annotations

from celery.worker.consumer import Consumer

worker_consumer = "tests.odd_config:Broken"


class Broken(Consumer):  # type: ignore[misc]
    """A consumer that fails, with a secret in what it says."""

    def start(self) -> None:
        """As soon as it is started."""
        raise RuntimeError("redis://user:pass/word@host/0 broke")
