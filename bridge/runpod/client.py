"""RunPod's HTTP API, one method per operation; camelCase ends here.

Built on one `requests` Session per process: it owns the pools, TLS and proxies. What goes over a connection of theirs
is written and read by `exchange.py`. Nothing is ever sent twice by the client itself; a POST that makes a job never
leaves on a connection that may have gone stale.
"""

from __future__ import annotations

import json
import math
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from http import HTTPStatus
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter

from bridge.errors import (
    ApiError,
    EndpointPaused,
    EndpointTrouble,
    EndpointUnknown,
    Forbidden,
    JobUnknown,
    KeyUnusable,
    OutOfCredit,
    Refused,
    Throttled,
    Unanswered,
    Unauthorised,
    Unreachable,
    Unreadable,
)
from bridge.job.reading import whole, word
from bridge.runpod import departure
from bridge.runpod.answers import ABSENT, Chunk, Health, JobState, Purged, StreamPage
from bridge.runpod.exchange import Answer, speaking
from bridge.runpod.meaning import JOB_ID, SUBMITS, Body, Meaning, body_of, foreign, meaning_of, sentence_of, words_of
from bridge.runpod.operations import Operation
from bridge.runpod.route import check_authorities, plain_about_addresses
from bridge.runpod.waiting import POSSIBLE, Waiting
from bridge.telemetry import blotted, tell

#: Bytes of a body that a socket takes at once, so that whoever sends it does not wait.
BODY_AT_ONCE = 16 * 1024
ENDPOINT_ID = re.compile(r"[A-Za-z0-9_\-]{1,64}")
#: Bytes of one answer at most: RunPod's own limit for a result is 20 MB (docs: handler functions); pages may hold more.
MAX_ANSWER_BYTES = 64 * 1024 * 1024
#: Seconds a connection may have been idle when a POST that makes a job leaves on it. A server that closes it
#: meanwhile would leave us unsure whether the job exists.
FRESH_S = 5.0
#: Seconds beyond `wait` that a held call may take.
HOLD_MARGIN_S = 10.0
#: Seconds of a Retry-After that are believed at most. RunPod's windows are ten seconds. A slip in a header must stop
#: neither submits for an hour nor reads until results are forgotten (30 minutes, one of /runsync).
LONGEST_PAUSE_S, LONGEST_PAUSE_OF_READS_S = 60.0, 10.0
#: Workers or jobs of an endpoint that are believed at most: limits are made of them, in numbers that Lua spells whole.
COUNT_MAX = 10**9


@dataclass(frozen=True, slots=True)
class Told:
    """What came of a call: `answer()` gives it or raises it, as the call itself would have."""

    state: JobState | None
    fault: Exception | None = None

    def answer(self) -> JobState:
        """Raises ApiError."""
        if self.fault is not None:
            raise self.fault
        assert self.state is not None  # noqa: S101  (the one or the other)
        return self.state


Then = Callable[[Told], None]


class RunPodClient:
    """Thread-safe. Connects at first use, and anew after a fork."""

    def __init__(
        self,
        base_url: str,
        api_key: Callable[[], str],
        *,
        connect_timeout_s: float = 3.05,
        read_timeout_s: float = 20.0,
        pool_size: int = 64,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        """`api_key` is asked for each call, so that a rotated key needs no restart."""
        self.base_url = base_url.rstrip("/")
        self._api_key = api_key
        self._connect_s, self._read_s = connect_timeout_s, read_timeout_s
        self._pool_size = pool_size
        self._max_bytes = max_answer_bytes
        self._lock = threading.Lock()
        self._pid = -1
        self._host = self._path = ""  # the base URL's, encoded as they are sent
        self._session = requests.Session()
        self._pools: dict[str, Any] = {}
        self._waiting: Any = None

    # Operations

    def run(self, endpoint_id: str, body: bytes) -> JobState:
        """POST /run. An answer without an id is Unanswered: a job may exist."""
        return self._job(self._call(Operation.RUN, endpoint_id, body=body))

    def runsync(self, endpoint_id: str, body: bytes, wait_ms: int) -> JobState:
        """POST /runsync?wait=ms. Answers the job's true state when the wait ends (kept 1 min only)."""
        query = f"?wait={wait_ms}"
        told = self._call(Operation.RUNSYNC, endpoint_id, body=body, query=query, hold_ms=wait_ms)
        return self._job(told)

    def status(self, endpoint_id: str, job_id: str) -> JobState:
        """GET /status/{id}. Reading consumes nothing."""
        return self._job_of(job_id, self._call(Operation.STATUS, endpoint_id, job_id))

    def begin_run(self, endpoint_id: str, body: bytes, then: Then) -> bool:
        """POST /run, whose answer no thread is held for: see `_begin`."""
        return self._begin(Operation.RUN, endpoint_id, None, body, self._job, then)

    def begin_status(self, endpoint_id: str, job_id: str, then: Then) -> bool:
        """GET /status/{id}, whose answer no thread is held for: see `_begin`."""
        return self._begin(Operation.STATUS, endpoint_id, job_id, None, partial(self._job_of, job_id), then)

    def status_sync(self, endpoint_id: str, job_id: str, wait_ms: int) -> JobState:
        """GET /status-sync/{id}?wait=ms: returns early when the job ends. Shares /status' limits."""
        told = self._call(
            Operation.STATUS, endpoint_id, job_id, path="status-sync", query=f"?wait={wait_ms}", hold_ms=wait_ms
        )
        return self._job(told)

    def stream(self, endpoint_id: str, job_id: str, wait_ms: int | None = None) -> StreamPage:
        """GET /stream/{id}: drains what is buffered, up to 200 chunks; an empty one holds (10 s by default).

        A page is the object that every SDK reads, or the bare array of today's docs (then without a status). What it
        holds is gone at RunPod, so a chunk of unforeseen form is kept as it is.
        """
        query = "" if wait_ms is None else f"?wait={wait_ms}"
        told = self._call(Operation.STREAM, endpoint_id, job_id, query=query, hold_ms=wait_ms or 10_000)
        status, items = told.get("status"), told.get("stream")
        chunks = tuple(_chunk(item) for item in items) if isinstance(items, list) else ()
        return StreamPage(status if isinstance(status, str) else "", chunks, told.get("output", ABSENT))

    def cancel(self, endpoint_id: str, job_id: str) -> JobState:
        """POST /cancel/{id}."""
        return self._job(self._call(Operation.CANCEL, endpoint_id, job_id, body=b"{}"))

    def retry(self, endpoint_id: str, job_id: str) -> JobState:
        """POST /retry/{id}: only FAILED and TIMED_OUT, same id and input."""
        return self._job(self._call(Operation.RETRY, endpoint_id, job_id, body=b"{}"))

    def purge_queue(self, endpoint_id: str) -> Purged:
        """POST /purge-queue: removes what is IN_QUEUE, whoever sent it."""
        told = self._call(Operation.PURGE, endpoint_id, body=b"{}")
        return Purged(whole(told.get("removed")) or 0, _text(told.get("status")) or "")

    def health(self, endpoint_id: str) -> Health:
        """GET /health."""
        told = self._call(Operation.HEALTH, endpoint_id)
        return Health(_counters(told.get("jobs")), _counters(told.get("workers")))

    def batch(
        self, endpoint_id: str, path: str = "", body: bytes | None = None, *, remove: bool = False
    ) -> dict[str, Any]:
        """One call of the Batch API, as RunPod answers it: see `batches.py`. `remove` sends a DELETE."""
        return self._call(Operation.BATCH, endpoint_id, body=body, path=f"batch{path}", remove=remove)

    def close(self) -> None:
        """End this process' idle connections; a later call connects anew."""
        with self._lock:
            pools, self._pools, pid, self._pid = self._pools, {}, self._pid, -1
            if pid == os.getpid():
                for pool in pools.values():
                    pool.close()
                if self._waiting is not None:
                    self._waiting.close()
                self._session.close()

    # One call

    def _call(
        self,
        op: Operation,
        endpoint_id: str,
        job_id: str | None = None,
        *,
        body: bytes | None = None,
        path: str | None = None,
        query: str = "",
        hold_ms: int = 0,
        remove: bool = False,
    ) -> dict[str, Any]:
        _check("endpoint id", ENDPOINT_ID, endpoint_id)
        if job_id is not None:
            _check("job id", JOB_ID, job_id)
        url = f"{self.base_url}/{endpoint_id}/{path or op.value}{'/' + job_id if job_id else ''}{query}"
        read_s = max(self._read_s, hold_ms / 1000 + HOLD_MARGIN_S) if hold_ms else self._read_s
        headers = self._headers(body)  # before the call: a key that cannot be read is no lost answer
        started = time.monotonic()
        code: int | str = "none"
        departure.begin()
        try:
            try:
                answer = self._send(op, url, body, headers, read_s, remove=remove)
            except ApiError:
                raise
            except Exception as error:
                raise departure.fault_of(error, url.split("?", maxsplit=1)[0]) from error
            code = answer.status
            return self._understood(op, answer, headers)
        except ApiError as error:
            code = error.code or type(error).__name__.lower()
            raise
        finally:
            tell("runpod.call", endpoint=endpoint_id, op=op.value, code=code, seconds=time.monotonic() - started)

    def _begin(
        self,
        op: Operation,
        endpoint_id: str,
        job_id: str | None,
        body: bytes | None,
        read: Callable[[dict[str, Any]], JobState],
        then: Then,
    ) -> bool:
        """Let a call leave over a connection that is open; `then` is told its answer once, by one thread for all calls.

        False, and nothing has left: there is no such connection, a proxy, much to send, or no usable key. A call that
        has a thread of its own (`run`, `status`) finds out which.
        """
        path = f"/{endpoint_id}/{op.value}{'/' + job_id if job_id else ''}"
        try:
            _check("endpoint id", ENDPOINT_ID, endpoint_id)
            if job_id is not None:
                _check("job id", JOB_ID, job_id)
            headers = self._headers(body)
            pool = self._pool_for(fresh=op in SUBMITS)
            connection = _open_one(pool, body)
        except Exception:  # noqa: BLE001  (whatever it is, nothing has left)
            return False
        if connection is None:
            return False
        started = time.monotonic()

        def answered(came: Answer | Exception) -> None:
            pool._put_conn(connection)  # noqa: SLF001
            told, code = self._told(op, came, headers, read, path)
            tell("runpod.call", endpoint=endpoint_id, op=op.value, code=code, seconds=time.monotonic() - started)
            then(told)

        departure.begin()
        try:
            connection.timeout = self._read_s
            method = "GET" if body is None else "POST"
            connection.request(method, self._path + path, body, {"Host": self._host, **headers})
            self._waiting.add(connection, answered)
        except Exception as error:  # noqa: BLE001  (told as what it is)
            connection.close()
            if not departure.left():
                pool._put_conn(connection)  # noqa: SLF001
                return False
            answered(error)
        return True

    def _told(
        self,
        op: Operation,
        came: Answer | Exception,
        headers: dict[str, str],
        read: Callable[[dict[str, Any]], JobState],
        path: str,
    ) -> tuple[Told, int | str]:
        """What came over a connection as `_call` would have told it, and what it counts as."""
        if isinstance(came, Exception):
            return Told(None, departure.lost(came, self.base_url + path)), "unanswered"
        try:
            return Told(read(self._understood(op, came, headers))), came.status
        except ApiError as error:
            return Told(None, error), error.code or type(error).__name__.lower()
        except Exception as error:  # noqa: BLE001  (raised where it is asked for)
            return Told(None, error), came.status

    @staticmethod
    def _understood(op: Operation, answer: Answer, headers: dict[str, str]) -> dict[str, Any]:
        """The answer that was asked for; everything else is raised as what it means (`meaning.py`)."""
        code, flaw, told = answer.status, answer.flaw, None
        if flaw is None:
            body, told = body_of(op, code, answer.body)
            if meaning_of(op, code, body) is Meaning.ANSWER:
                return {"stream": told} if isinstance(told, list) else told
        else:
            body, told = flaw
        if HTTPStatus.OK <= code < HTTPStatus.MULTIPLE_CHOICES:
            fault = _without_key(str(told).encode(), headers).decode()
            raise (Unreadable if flaw is None else Unanswered)(f"RunPod's answer {fault}", code)
        raise _error_of(op, answer, body, _without_key(answer.body, headers))

    def _headers(self, body: bytes | None) -> dict[str, str]:
        try:
            key = self._api_key()
        except (OSError, ValueError) as error:  # a file of bytes that are no text is a ValueError
            raise KeyUnusable(
                f"{_KEY} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}"
            ) from error
        if not key or not key.isascii() or not key.isprintable():
            fault = "is empty, or holds a line's end or another character that no header can carry"
            raise KeyUnusable(f"{_KEY} {fault}")
        headers = {
            "Authorization": f"Bearer {key}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "runpod-bridge",
        }
        if body is not None:
            headers["Content-Type"] = "application/json"
        return headers

    def _send(
        self, op: Operation, url: str, body: bytes | None, headers: dict[str, str], read_s: float, *, remove: bool
    ) -> Answer:
        """Straight over a connection that is kept; where one must be made first, by urllib3, which knows its faults."""
        pool = self._pool_for(fresh=op in SUBMITS or (op is Operation.BATCH and body is not None))
        method = "DELETE" if remove else "GET" if body is None else "POST"
        path = self._path + url[len(self.base_url) :]
        headers = {"Host": self._host, **headers}
        connection = pool._get_conn()  # noqa: SLF001  (urllib3's own seam for pools)
        if connection.sock is None or pool.proxy is not None:
            pool._put_conn(connection)  # noqa: SLF001
            return pool.urlopen(  # type: ignore[no-any-return]
                method,
                url if pool.proxy is not None and pool.scheme == "http" else path,
                body=body,
                headers=headers,
                timeout=urllib3.Timeout(connect=self._connect_s, read=read_s),
                retries=False,
                redirect=False,
                assert_same_host=False,
                preload_content=False,
                release_conn=True,
            )
        try:
            connection.timeout = read_s
            connection.request(method, path, body, headers)
            answer: Answer = connection.getresponse()
        except BaseException:
            connection.close()
            raise
        finally:
            pool._put_conn(connection)  # noqa: SLF001
        return answer

    def _pool_for(self, *, fresh: bool) -> Any:
        """The pool of this process; jobs are made over one that throws idle connections away."""
        pools, pid = self._pools, self._pid
        if pid != os.getpid():
            with self._lock:
                pools = self._pools if self._pid == os.getpid() else self._build()
        return pools["fresh" if fresh else "kept"]

    def fault(self) -> str | None:
        """Why no call can leave by these settings (proxy, CA bundle, address), in words; None when one may."""
        departure.begin()
        try:
            self._pool_for(fresh=True)
        except Unreachable as error:
            return error.message
        except Exception as error:  # noqa: BLE001  (nothing has left, whatever it is)
            return departure.fault_of(error, self.base_url).message
        return None

    def _build(self) -> dict[str, Any]:
        session = requests.Session()
        # Proxies and CA bundle are read from the environment once, here, and not for each call.
        found = session.merge_environment_settings(self.base_url, {}, stream=False, verify=None, cert=None)
        session.trust_env = False
        session.proxies, session.verify, session.cert = found["proxies"], found["verify"], found["cert"]
        check_authorities(self.base_url, session.verify)
        pools = {}
        with plain_about_addresses(self.base_url, session.proxies):
            prepared = session.prepare_request(requests.Request("GET", self.base_url))
            where = urllib3.util.parse_url(prepared.url or "")
            self._host, self._path = where.netloc or "", (where.path or "").rstrip("/")
            for name in ("kept", "fresh"):
                adapter = HTTPAdapter(pool_connections=1, pool_maxsize=self._pool_size, max_retries=0, pool_block=False)
                session.mount(f"{self.base_url}/{name}", adapter)
                pool: Any = adapter.get_connection_with_tls_context(
                    prepared, session.verify, proxies=session.proxies, cert=session.cert
                )
                # `requests` names its own CA bundle only here; without it a slim container's empty store would be used.
                adapter.cert_verify(pool, self.base_url, session.verify, session.cert)  # type: ignore[no-untyped-call]
                pool.ConnectionCls = speaking(departure.noting(pool.ConnectionCls), self._max_bytes)
                pools[name] = pool
        _keep_fresh(pools["fresh"])
        self._waiting = Waiting() if POSSIBLE else None
        self._session, self._pools, self._pid = session, pools, os.getpid()
        return pools

    @classmethod
    def _job_of(cls, job_id: str, told: dict[str, Any]) -> JobState:
        """What was told of this job, and no other."""
        if (told.get("id") or job_id) != job_id:
            raise Unreadable(f"RunPod's answer is about another job: {told['id'][:80]}", 200)
        return cls._job({**told, "id": job_id})

    @staticmethod
    def _job(told: dict[str, Any]) -> JobState:
        read = {name: kind(told.get(name)) for name, kind in _MEMBERS.items()}
        return JobState(
            job_id=str(told.get("id") or ""),
            # A submit that names an id is answered, whatever else it says.
            status=word(told.get("status")) or "IN_QUEUE",
            delay_time=read["delayTime"],
            execution_time=read["executionTime"],
            worker_id=read["workerId"],
            retries=read["retries"],
            output=told.get("output", ABSENT),
            error=_text(told.get("error")),
            odd=tuple(name for name, value in read.items() if value is None and told.get(name) is not None),
        )


#: What is left out of an answer when it cannot be: its output must not be lost for it.
_MEMBERS: Mapping[str, Callable[[object], Any]] = {
    "delayTime": whole,
    "executionTime": whole,
    "workerId": word,
    "retries": whole,
}


def _open_one(pool: Any, body: bytes | None) -> Any:
    """A connection of the pool that is open, where a call may go over it without a thread of its own."""
    if not POSSIBLE or pool.proxy is not None or (body is not None and len(body) > BODY_AT_ONCE):
        return None
    connection = pool._get_conn()  # noqa: SLF001  (urllib3's own seam for pools)
    if connection.sock is None:
        pool._put_conn(connection)  # noqa: SLF001
        return None
    return connection


def _keep_fresh(pool: Any) -> None:
    """Make a pool close connections that have been idle for over FRESH_S instead of handing them out."""
    put, get = pool._put_conn, pool._get_conn  # noqa: SLF001  (urllib3's own seam for pools)

    def _put_conn(connection: Any) -> None:
        if connection is not None:
            connection.idle_since = time.monotonic()
        put(connection)

    def _get_conn(timeout: float | None = None) -> Any:
        connection = get(timeout)
        if (
            getattr(connection, "sock", None) is not None
            and time.monotonic() - getattr(connection, "idle_since", 0.0) > FRESH_S
        ):
            connection.close()
        return connection

    pool._put_conn, pool._get_conn = _put_conn, _get_conn  # noqa: SLF001


#: How the key is set, for who reads that it is wrong.
_KEY = "the key (RUNPOD_API_KEY, or the endpoint's api_key_file)"
#: The error of each meaning, and what to say when the body says nothing.
_ERRORS: Mapping[Meaning, tuple[type[ApiError], str]] = {
    Meaning.UNANSWERED: (Unanswered, ""),
    Meaning.REFUSED: (Refused, ""),
    Meaning.JOB_UNKNOWN: (JobUnknown, "job not found"),
    Meaning.ENDPOINT_UNKNOWN: (EndpointUnknown, "endpoint not found"),
    Meaning.REDIRECTED: (EndpointTrouble, ""),
    Meaning.UNAUTHORISED: (Unauthorised, f"{_KEY} is missing or wrong"),
    Meaning.OUT_OF_CREDIT: (OutOfCredit, "the balance is used up"),
    Meaning.FORBIDDEN: (Forbidden, f"{_KEY} may not use this endpoint"),
    Meaning.PAUSED: (EndpointPaused, "the endpoint takes no jobs now"),
}


def _error_of(op: Operation, answer: Answer, body: Body, text: bytes) -> ApiError:
    """The error of an answer other than the one that was asked for. `text` holds no key any more."""
    code, said, meaning = answer.status, sentence_of(text), meaning_of(op, answer.status, body)
    error: ApiError
    if meaning is Meaning.THROTTLED:
        longest_s = LONGEST_PAUSE_S if op in SUBMITS else LONGEST_PAUSE_OF_READS_S
        error = Throttled(said or "too many requests", code, _retry_after(answer.headers, longest_s))
    elif meaning is Meaning.REDIRECTED:
        where = str(answer.headers.get("location", "nowhere")).split("?", maxsplit=1)[0][:200]
        error = EndpointTrouble(f"redirected to {where}, not followed: correct RUNPOD_ENDPOINT_BASE_URL", code)
    else:
        kind, means = _ERRORS[meaning]
        if kind in {Unauthorised, Forbidden}:  # RunPod's sentence cannot know where our key comes from
            said = f"{means} (RunPod: {said or code})"
        elif kind is Unanswered:
            said = f"HTTP {code}{': ' + said if said else ''}"
        error = kind(said or means or f"HTTP {code}", code)
    if op in SUBMITS:
        error.foreign = foreign(op, code, body)
        words = str(blotted(words_of(text)))
        page = " and a page of HTML" if body is Body.HTML else ""
        error.answered = f"HTTP {code}{page}{': ' + words if words else ''}"
    return error


def _retry_after(headers: Mapping[str, str], longest_s: float) -> float | None:
    value = headers.get("retry-after")
    if not value:
        return None
    try:
        delay = float(value)
    except ValueError:
        try:
            delay = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return None if math.isnan(delay) else min(max(0.0, delay), longest_s)


def _without_key(text: bytes, headers: Mapping[str, str]) -> bytes:
    """An error body without our key, should it be echoed (I11)."""
    return text.replace(headers["Authorization"].removeprefix("Bearer ").encode(), b"***")


def _chunk(item: object) -> Chunk:
    if not isinstance(item, dict) or "output" not in item:
        return Chunk(item)
    metrics = item.get("metrics")
    return Chunk(item["output"], metrics if isinstance(metrics, dict) else None)


def _check(what: str, pattern: re.Pattern[str], value: str) -> None:
    if not pattern.fullmatch(value):
        raise ValueError(f"{what} {value[:80]!r} must match {pattern.pattern}")


def _counters(value: object) -> dict[str, int]:
    return {name: min(whole(count) or 0, COUNT_MAX) for name, count in value.items()} if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)
