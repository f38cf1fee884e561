"""Counters of prefork's children, who accept requests and answer commands while the main process serves `/metrics`.

prometheus-client's multiprocess mode: each process counts in files of its own, and whoever is scraped adds them up. The
files are named by the child's place in the pool, not by its pid, so that a pool that renews its children for weeks
(`worker_max_tasks_per_child`) has as many files as children: who comes next goes on counting where the last one ended.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from billiard.process import current_process
from celery.signals import worker_process_init

from bridge.telemetry.metrics import count_in_files

if TYPE_CHECKING:
    from celery.worker import WorkController

PREFIX = "bridge-counts-"


class ChildCounts:
    """Made by a worker's main process before its pool forks; its children have it by the fork."""

    def __init__(self, folder: str) -> None:
        """Counts of this process go into the folder from now on, beside its children's."""
        self._folder, self._main = folder, os.getpid()
        atexit.register(self._remove)
        count_in_files(folder, "main", adds_up=True)
        worker_process_init.connect(self._child)

    def _child(self, **_kwargs: object) -> None:
        count_in_files(self._folder, f"child{current_process().index}")

    def _remove(self) -> None:
        if os.getpid() == self._main:
            shutil.rmtree(self._folder, ignore_errors=True)


def of_worker(worker: WorkController) -> ChildCounts | None:
    """For a worker whose tasks run in children; None for the other pools."""
    if worker.pool_cls.__module__ != "celery.concurrency.prefork":
        return None
    _tidy()
    folder = tempfile.mkdtemp(prefix=PREFIX)
    _locked(Path(folder))  # for as long as this process or one of its children lives
    return ChildCounts(folder)


def _tidy() -> None:
    """Remove what killed workers have left."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # another user's, or another worker tidies too
            held = _locked(folder, create=False)
            if held is not None:
                shutil.rmtree(folder)
                os.close(held)


def _locked(folder: Path, *, create: bool = True) -> int | None:
    """The file that holds the folder's lock, which the kernel lets go with the last process that has it open."""
    lock = os.open(folder / "lock", os.O_RDWR | (os.O_CREAT if create else 0), 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock
