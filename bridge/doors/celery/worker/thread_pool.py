"""Celery's pool of threads, where the system starts no further thread.

Python's executor has put the work into its queue by then, and raises all the same: what is tried again is queued again,
and all copies of it run once there is a thread.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from bridge.doors.whose_fault import is_own


def take_with_what_there_is(executor: ThreadPoolExecutor) -> None:
    """Leave the work to the threads that the executor has; what comes before its first one is refused as ever."""
    submit = executor.submit

    def patient(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        try:
            return submit(call, *args, **kwargs)
        except RuntimeError as error:
            if not is_own(error) or not executor._threads:  # noqa: SLF001  (nobody else knows)
                raise
            return Future()  # Celery looks at what a call did by its callbacks alone

    executor.submit = patient  # type: ignore[method-assign, assignment]
