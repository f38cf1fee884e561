"""A producer as another team has it: any version of Celery, and nothing of ours. Prints [column, what was seen]."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import uuid
from typing import Any

from celery import Celery, chain
from celery.exceptions import TaskRevokedError

PATIENCE_S = 120


def send(app: Any, task_id: str = "", **given: Any) -> Any:
    """One request."""
    task_id = task_id or str(uuid.uuid4())
    return app.send_task("bridge.run", kwargs={"input": given}, queue="bridge.run", task_id=task_id)


def jobs(app: Any, asked: dict[str, Any]) -> str:
    """Each output is that of its own input."""
    sent = [(n, send(app, n=n)) for n in range(asked["jobs"])]
    if asked["results"].startswith("disabled"):
        return "sent"
    wrong = [n for n, result in sent if result.get(timeout=PATIENCE_S) != {"n": n}]
    return f"FAILS: {len(wrong)} of {len(sent)} outputs are another's" if wrong else f"{len(sent)} of {len(sent)}"


def states(app: Any, asked: dict[str, Any]) -> str:
    """What `state` says on the way."""
    seen: set[str] = set()
    result = send(app, mock_delay=4)
    until = time.monotonic() + PATIENCE_S
    while not result.ready() and time.monotonic() < until:
        seen.add(result.state)
        time.sleep(0.1)
    on_the_way = sorted(seen & {"ACCEPTED", "IN_QUEUE", "IN_PROGRESS"})
    return "yes" if "IN_PROGRESS" in on_the_way else f"FAILS: saw {sorted(seen)}"


def follows(app: Any, asked: dict[str, Any]) -> str:
    """The second gets the first's output as its input."""
    run = app.signature("bridge.run", queue="bridge.run")
    first = run.clone(kwargs={"input": {"n": 7}})
    found = chain(first, run.clone()).apply_async().get(timeout=PATIENCE_S)
    return "yes" if found == {"n": 7} else f"FAILS: {found}"


def again(app: Any, asked: dict[str, Any]) -> str:
    """The same id twice is one request, and both hear its end."""
    task_id = str(uuid.uuid4())
    first = send(app, task_id, n=1).get(timeout=PATIENCE_S)
    second = send(app, task_id, n=1).get(timeout=PATIENCE_S)
    return "yes" if first == second else f"FAILS: {first}, {second}"


def cancel(app: Any, asked: dict[str, Any]) -> str:
    """By the task."""
    result = send(app, mock_delay=600)
    time.sleep(2)
    app.send_task("bridge.cancel", kwargs={"id": result.id}, queue="bridge.control", ignore_result=True)
    return _revoked(result)


def revoke(app: Any, asked: dict[str, Any]) -> str:
    """By Celery's broadcast."""
    result = send(app, mock_delay=600)
    time.sleep(2)
    app.control.revoke(result.id)
    return _revoked(result)


def _revoked(result: Any) -> str:
    try:
        result.get(timeout=60)
    except TaskRevokedError:
        return "yes"
    return "FAILS: it went on"


TRIES = {"jobs": jobs, "states": states, "chain": follows, "again": again, "cancel": cancel, "revoke": revoke}


def main() -> None:
    """Asked in JSON."""
    asked = json.loads(sys.argv[1])
    if os.environ.get("DJANGO_SETTINGS_MODULE"):  # as in any process of a Django project
        importlib.import_module("django").setup()
    app = Celery("other", broker=asked["broker"], backend=asked["results"])
    app.conf.update(asked["settings"])
    # With rpc:// a process that has waited for one result sees no more states by asking: Celery's consumer takes them.
    for column in sorted(asked["columns"], key=lambda column: column != "states"):
        try:
            says = TRIES[column](app, asked)
        except Exception as error:  # noqa: BLE001  (whatever it is, it stands in the table)
            says = f"FAILS: {type(error).__name__}: {error}"
        print(json.dumps([column, " ".join(str(says).split())[:160]]), flush=True)


if __name__ == "__main__":
    main()
