"""Tries the rows one after the other and writes the table; exits 4 where one fails that could be tried."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bridge.cli.exit_codes import ExitCode
from bridge.emulator import Emulator
from bridge.redis.address import as_celery_has_it
from tests.compat.environments import drivers
from tests.compat.row import COLUMNS, Asked, Missing, Place, Row
from tests.compat.rows import ROWS
from tests.support.helpers import eventually
from tests.support.house import API_KEY, ROOT, House

PAGE = ROOT / "docs" / "compatibility.md"
BEGIN, END = "<!-- made by scripts/compat -->", "<!-- end of what scripts/compat has made -->"
#: Seconds for all that one producer does.
PRODUCER_S = 600
_SHOWN = (*COLUMNS, "check")


def tried(row: Row, emulator: Emulator) -> dict[str, str]:
    """What was seen, by column. Raises Missing."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="compat-")))
        command = row.sends()
        place = stack.enter_context(row.at(home))
        house = stack.enter_context(House(home, broker=place.broker, redis_url=place.ledger, emulator=emulator))
        paths = [str(ROOT), place.environment.get("PYTHONPATH", ""), str(drivers())]
        house.environment |= {
            **place.environment,
            "CELERY_RESULT_BACKEND": place.results,  # none of this process: it has no drivers
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        }
        if row.overlay:
            (home / "overlay.json").write_text(json.dumps(row.overlay))
            house.environment["BRIDGE_CELERY_CONFIG"] = str(home / "overlay.json")
        try:
            worker = house.worker()
            seen = {column: row.cannot.get(column, "") for column in COLUMNS}
            seen |= _sent(row, place, house, command)
            if seen["jobs"] == "sent":
                eventually(lambda: house.ledger.counts("demo").get("CLOSED") == row.jobs, timeout=30)
                seen["jobs"] = f"{row.jobs} of {row.jobs}"
            seen["check"] = _checked(house)
            worker.stop()
        except AssertionError as error:
            return {"jobs": f"FAILS: {' '.join(str(error).split())[-300:]}"}
        return seen


def _sent(row: Row, place: Place, house: House, command: list[str]) -> dict[str, str]:
    broker, broker_options, _ = as_celery_has_it(place.broker)
    results, results_options, _ = as_celery_has_it(place.results)
    settings: dict[str, Any] = {
        "broker_transport_options": broker_options, "result_backend_transport_options": results_options,
        **place.producer, **row.settings,
    }  # fmt: skip
    columns = [column for column in COLUMNS if column not in row.cannot]
    asked = Asked(broker, results, settings, columns, row.jobs)
    environment = {k: v for k, v in house.environment.items() if not k.startswith(("BRIDGE_", "CELERY_", "RUNPOD_"))}
    if command[0] != sys.executable:  # an environment of its own has drivers of its own
        environment.pop("PYTHONPATH")
    done = subprocess.run(
        [*command, asked.json], cwd=house.directory, env=environment, capture_output=True, text=True,
        timeout=PRODUCER_S, check=False,
    )  # fmt: skip
    found = dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))
    last = " ".join(done.stderr.strip().splitlines()[-1:])[:200]
    return {column: found.get(column, f"FAILS: {last}") for column in columns}


def _checked(house: House) -> str:
    """`bridge check` beside a running worker."""
    done = subprocess.run(
        [sys.executable, "-m", "bridge.cli", "check", "--json"], cwd=ROOT, env=house.environment, capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip
    if done.returncode == ExitCode.OK:
        return "yes"
    if not done.stdout.startswith("["):
        return f"FAILS: {' '.join(done.stderr.split())[-200:]}"
    faults = [finding["says"] for finding in json.loads(done.stdout) if finding["level"] == "FAULT"]
    return f"FAILS: {'; '.join(faults)[:200]}"


def line(row: Row, seen: dict[str, str]) -> str:
    """Of the table, in Markdown."""
    cells = [seen.get(column, "") for column in _SHOWN]
    return f"{_key(row)} {' | '.join(cells)} | {seen.get('skipped') or row.note} |"


def _key(row: Row) -> str:
    return f"| {row.group} | {row.name} |"


def page(made: dict[str, str]) -> str:
    """The page with these lines new; those of rows that were not tried now stay."""
    head, _, rest = PAGE.read_text().partition(BEGIN)
    old, _, tail = rest.partition(END)
    lines = [f"| | what | {' | '.join(_SHOWN)} | with |", f"|{'---|' * (len(_SHOWN) + 3)}"]
    for row in ROWS:
        key = _key(row)
        lines += [made[key]] if key in made else [known for known in old.splitlines() if known.startswith(key)]
    names = ", ".join(f"{name} {version(name)}" for name in ("celery", "kombu", "redis", "amqp"))
    return f"{head}{BEGIN}\nWith {names}.\n\n{chr(10).join(lines)}\n{END}{tail}"


def main(words: list[str]) -> int:
    """All rows, or those whose names have one of the words."""
    rows = [row for row in ROWS if not words or any(word in f"{row.group} {row.name}".lower() for word in words)]
    found: list[tuple[Row, dict[str, str]]] = []
    with Emulator(endpoints=["demo"], api_keys=[API_KEY]) as emulator:
        for row in rows:
            try:
                seen = tried(row, emulator)
            except Missing as error:
                seen = {"skipped": f"**not tried here: {error}**"}
            except Exception as error:  # noqa: BLE001  (one row's servers must not keep the others from being tried)
                seen = {"jobs": f"FAILS: {type(error).__name__}: {' '.join(str(error).split())[-300:]}"}
            found.append((row, seen))
            print(f"{row.group} {row.name}: {seen}", flush=True)
    failed = [row.name for row, seen in found if any(says.startswith("FAILS") for says in seen.values())]
    PAGE.write_text(page({_key(row): line(row, seen) for row, seen in found}))
    print(f"failed: {', '.join(failed)}" if failed else "none failed")
    return ExitCode.FAILED if failed else ExitCode.OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
