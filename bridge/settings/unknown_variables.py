"""Variables that begin like the bridge's own and are none, and Celery's that go before the bridge's.

A misspelt one is silently its default otherwise, and a worker silently on another broker than all else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from difflib import get_close_matches

from bridge.settings.settings import FROM_FILES, Settings

#: What Kubernetes and Docker links put into every container beside a service whose name begins with `bridge`.
_LINKS = re.compile(r"BRIDGE_([A-Z0-9_]+_)?(SERVICE_(HOST|PORT)(_[A-Z0-9_]+)?|PORT(_\d+_(TCP|UDP)(_[A-Z]+)?)?)")

#: What Celery's command takes in place of ours, and from where other teams' addresses come.
_BEFORE = {
    "BROKER_URL": "CELERY_BROKER_URL",
    "CELERY_BROKER": "CELERY_BROKER_URL",
    "RESULT_BACKEND": "CELERY_RESULT_BACKEND",
}


def overruling(environment: Mapping[str, str] | None = None) -> list[str]:
    """A sentence for each of Celery's; none in a worker, where Celery has set ours to the same by then."""
    has = os.environ if environment is None else environment
    return [
        f"{name} differs from {ours}, and Celery's command takes it instead: a worker would use it, and nothing else "
        "of the bridge; unset it"
        for name, ours in _BEFORE.items()
        if has.get(name) and not has.get(f"{ours}_FILE") and has[name] != has.get(ours)
    ]


def strange_names(environment: Mapping[str, str] | None = None) -> list[str]:
    """A sentence for each; never its value."""
    known = {name.upper() for name in Settings.model_fields} | {f"{name.upper()}_FILE" for name in FROM_FILES}
    found = []
    for name in sorted(os.environ if environment is None else environment):
        if name.startswith("BRIDGE_") and name not in known and not _LINKS.fullmatch(name):
            near = get_close_matches(name, known, n=1, cutoff=0.75)
            found.append(f"{name} is no setting of the bridge" + (f"; is it {near[0]}?" if near else ""))
    return [*found, *overruling(environment)]
