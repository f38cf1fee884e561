"""A batch from a file: one input a line in, one result a line out; a second run goes on where the first stopped.

A line's id is the batch's name (`batch_name`) and its number, so a line is never run twice, whenever and wherever a run
was killed: what has a result in the file is done, and what the ledger knows is waited for. Neither file is ever held in
memory.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from bridge.cli.exit_codes import ExitCode
from bridge.cli.requests.batch_name import batch_name, fitting, of_content, read_through
from bridge.cli.requests.refusals import Refusals
from bridge.cli.terminal.progress import Pace

if TYPE_CHECKING:
    from bridge.process.components import Components

#: Requests of one batch under way at once; the ledger would hold more, a file of results is read in order of ends.
WINDOW = 1_000
#: Lines read and looked up, and ends fetched, in one round trip.
PAGE = 100
LOOK_S, TELL_S = 0.2, 5.0
#: Seconds after which a request that no door has taken is sent again; the same one twice changes nothing.
AGAIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the file. `fault` says why it cannot be sent."""

    number: int
    request_id: str
    mark: str  # tells a changed line: the request's fingerprint, of a bad line that of its text
    arguments: Mapping[str, Any]
    fault: str = ""


@dataclass(slots=True)
class Tally:
    """How the batch stands."""

    lines: int
    done: int = 0
    failed: int = 0
    bad: int = 0  # lines that could not be sent, of the failed
    told_at: float = field(default_factory=time.monotonic)
    pace: Pace = field(default_factory=Pace)


class Results:
    """The file of results: what it holds, and what is added to it. One run at a time."""

    def __init__(self, path: Path) -> None:
        """Mends a line that a kill has torn. Raises UsageError when another run writes here, or it is no such file."""
        self._file: IO[bytes] = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise click.UsageError(f"{path}: another run is writing to it") from None
        self.done: dict[str, tuple[str, str]] = {}  # id -> status, mark
        end = 0
        self._file.seek(0)
        for number, raw in enumerate(self._file, start=1):
            told = _result(raw)
            if told is not None:
                self.done[told["id"]] = (told["status"], str(told.get("mark", "")))
            elif raw.endswith(b"\n") and raw.strip():
                raise click.UsageError(f"{path}: line {number} is no result: is it the right file?")
            elif raw.strip():
                break  # torn: what the ledger knows of it comes again
            end += len(raw)
            if not raw.endswith(b"\n"):  # whole, but for its end
                self._file.truncate(end)
                self._file.write(b"\n")
                end += 1
        self._file.truncate(end)
        self._file.seek(0, os.SEEK_END)

    def add(self, results: list[dict[str, Any]]) -> None:
        """Whole lines, in one write."""
        if results:
            self._file.write("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in results).encode())
            self._file.flush()

    def close(self) -> None:
        """Let another run write."""
        self._file.close()


def _result(raw: bytes) -> dict[str, Any] | None:
    try:
        told = json.loads(raw)
    except ValueError:
        return None
    return told if isinstance(told, dict) and isinstance(told.get("id"), str) and "status" in told else None


class Batch:
    """One run of one file."""

    def __init__(self, has: Components, path: Path, name: str, arguments: dict[str, Any]) -> None:
        """`name` begins each line's id; `arguments` are the same for all. Raises JobRejected (endpoint)."""
        self._house = has
        self._path = path
        self._name = name
        self._arguments = arguments
        self.endpoint = has.book.resolve(arguments.get("endpoint")).name
        self._unseen = 0  # lines that were sent, and that no door has taken yet
        self._letters = Refusals(has)

    def run(self, results: Results, tally: Tally) -> None:
        """Send what has no result yet, and write each end as it comes."""
        waiting: dict[str, tuple[Line, float]] = {}
        pages = self._pages(results, tally)
        page: list[Line] | None = []
        while page is not None or waiting:
            while page is not None and (room := self._room(len(waiting))) > 0:
                for line in self._told(page[:room], results, tally):
                    waiting[line.request_id] = (line, time.monotonic())
                page = page[room:] or next(pages, None)
            ended = self._ended(waiting)
            tally.pace.ended(len(ended))
            for told in ended:
                tally.done += 1
                tally.failed += told["status"] != "COMPLETED"
                del waiting[told["id"]]
            results.add(ended)
            _progress(tally, len(waiting))
            if not ended and (waiting or page is not None):
                time.sleep(LOOK_S)

    def _room(self, waiting: int) -> int:
        """How many more lines may leave: what is on its way to a door counts as waiting there.

        What was on its way is looked up before what waits is counted, so that a line is counted twice and never not.
        """
        return min(WINDOW - waiting, self._house.pressure.room(self.endpoint) - self._unseen)

    def _pages(self, results: Results, tally: Tally) -> Iterator[list[Line]]:
        """Lines that have no result yet, some at a time."""
        page: list[Line] = []
        with self._path.open("rb") as lines:
            for number, raw in enumerate(lines, start=1):
                if not raw.strip():
                    continue
                line = self.line(number, raw)
                status, mark = results.done.get(line.request_id, ("", ""))
                changed = mark not in {"", line.mark}
                if status and not (changed and status == "REJECTED"):  # a bad line may be mended
                    tally.done += 1
                    tally.failed += status != "COMPLETED" or changed
                    if changed:
                        said = "it has changed since its result; give the batch another --name"
                        _say(f"line {number}: id_conflict: {said}")
                    elif line.fault:
                        tally.bad += 1
                        _say(f"line {number}: {line.fault}")
                    continue
                page.append(line)
                if len(page) == PAGE:
                    yield page
                    page = []
        if page:
            yield page

    def line(self, number: int, raw: bytes) -> Line:
        """Read one."""
        from bridge.errors import JobRejected  # noqa: PLC0415
        from bridge.job.request import fingerprint, parse_run  # noqa: PLC0415
        from bridge.job.strict_json import Fault, read_object  # noqa: PLC0415

        request_id = f"{self._name}:{number}"
        mark = "text:" + hashlib.sha256(raw.strip()).hexdigest()[:16]
        try:
            given = read_object(raw)
        except Fault as fault:
            return Line(number, request_id, mark, {}, f"input: {fault.rule}")
        arguments = {"input": given, **self._arguments}
        try:
            request = parse_run(arguments)
            endpoint = self._house.book.resolve(request.endpoint)
        except JobRejected as error:
            return Line(number, request_id, mark, {}, error.message)
        return Line(number, request_id, fingerprint(endpoint.name, request), arguments)

    def _told(self, page: list[Line], results: Results, tally: Tally) -> list[Line]:
        """Send a page; answers the lines to wait for. Bad ones, and those whose id is another's, are told at once."""
        known = self._house.ledger.load_many([line.request_id for line in page])
        refused, waits = [], []
        for line in page:
            held = known.get(line.request_id)
            if line.fault:
                refused.append(self._refused(line, "rejected", line.fault, tally))
            elif held is not None and held.record.fingerprint != line.mark:
                fault = "the bridge knows this id with another input: it has changed since it was sent"
                refused.append(self._refused(line, "id_conflict", f"{fault}; give the batch another --name", tally))
            else:
                if held is None:
                    self._send(line)
                    self._unseen += 1
                waits.append(line)
        results.add(refused)
        return waits

    def _refused(self, line: Line, reason: str, fault: str, tally: Tally) -> dict[str, Any]:
        tally.done, tally.failed, tally.bad = tally.done + 1, tally.failed + 1, tally.bad + 1
        return _rejected(line, reason, fault)

    def _send(self, line: Line) -> None:
        # Without a Celery result: the end is read from the ledger.
        self._house.app.send_task(
            "bridge.run", kwargs=dict(line.arguments), task_id=line.request_id, queue="bridge.run", ignore_result=True
        )

    def _ended(self, waiting: dict[str, tuple[Line, float]]) -> list[dict[str, Any]]:
        ids = list(waiting)
        if not ids:
            self._unseen = 0
            return []
        ledger, now = self._house.ledger, time.monotonic()
        ended, told = [], []
        phases = ledger.phases(ids)
        self._unseen = phases.count(None)
        for request_id, phase in zip(ids, phases, strict=True):
            if phase is not None and phase.ended:
                ended.append(request_id)
            elif phase is None and (fault := self._letters.of(request_id)) is not None:  # no door could take it
                told.append(_rejected(waiting[request_id][0], "rejected", fault))
            elif phase is None and now - waiting[request_id][1] > AGAIN_S:
                if ledger.tombstone(request_id) is not None:  # it ended so long ago that only its end is remembered
                    ended.append(request_id)
                    continue
                line = waiting[request_id][0]
                self._send(line)
                waiting[request_id] = (line, now)
        ended = ended[:PAGE]
        held = ledger.load_many(ended, output=True)
        for request_id in ended:
            line = waiting[request_id][0]
            one = held.get(request_id)
            control = self._house.control
            document = control.document(one) if one is not None else control.status(id=request_id)
            if one is not None and "output_ref" in document and (text := self._house.outputs.whole(one)) is not None:
                del document["output_ref"]
                document["output"] = json.loads(text)
            wanted = ("status", "reason", "output", "output_ref", "error", "retained", "possible_duplicate")
            said = {name: document[name] for name in wanted if document.get(name) is not None}
            told.append({"id": request_id, "line": line.number, **said, "mark": line.mark})
        return told


def _rejected(line: Line, reason: str, fault: str) -> dict[str, Any]:
    """Its result, said too."""
    _say(f"line {line.number}: {'' if reason == 'rejected' else reason + ': '}{fault}")
    told = {"id": line.request_id, "line": line.number, "status": "REJECTED", "reason": reason, "error": fault}
    return {**told, "mark": line.mark}


def run_batch(
    has: Components, path: Path, out: Path, arguments: dict[str, Any], *, name: str | None, as_json: bool
) -> int:
    """Exit 0 when every line has COMPLETED, now or in an earlier run; 4 when some have not; 130 when it was stopped."""
    try:
        results = Results(out)
    except OSError as error:
        raise click.UsageError(f"--out: {out}: {error.strerror}") from None
    try:
        lines, content = read_through(path)
        tally = Tally(lines)
        if name is None:
            unnamed = Batch(has, path, "", arguments)
            fresh = of_content(path, content, arguments, unnamed.endpoint)
            name = batch_name(path, out, results.done, fresh, lambda number, raw: unnamed.line(number, raw).mark)
        name = fitting(name)
        Batch(has, path, name, arguments).run(results, tally)
    except KeyboardInterrupt:
        _say(f"stopped at {tally.done} of {tally.lines}; the same command goes on from here")
        return ExitCode.STOPPED
    finally:
        results.close()
    if as_json:
        told = {"lines": tally.lines, "failed": tally.failed, "bad": tally.bad, "batch": name, "out": str(out)}
        click.echo(json.dumps(told))
    else:
        _say(f"{tally.lines - tally.failed} of {tally.lines} completed; results in {out}")
    return ExitCode.FAILED if tally.failed else ExitCode.OK


def _progress(tally: Tally, waiting: int) -> None:
    """A line that is written over on a terminal, one every few seconds elsewhere."""
    terminal, now = sys.stderr.isatty(), time.monotonic()
    if not terminal and now - tally.told_at < TELL_S:
        return
    tally.told_at = now
    pace = tally.pace.told(tally.lines - tally.done)
    text = f"{tally.done} of {tally.lines} done, {tally.failed} failed, {waiting} under way{pace}"
    click.echo(f"\r{text:90}" if terminal else text, err=True, nl=not terminal)
    if terminal and tally.done == tally.lines:
        click.echo(err=True)


def _say(text: str) -> None:
    click.echo(text, err=True)
