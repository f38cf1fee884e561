"""RunPod's HTTP API, one method per operation; camelCase ends here.

Built on one `requests` Session per process: it owns the pools, TLS and proxies. What goes over a connection of theirs
is written and read by `exchange.py`. Nothing is ever sent twice by the client itself; a POST that makes a job never
leaves on a connection that may have gone stale.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter

from bridge.errors import (
    ApiError,
    KeyUnusable,
    Unanswered,
    Unreachable,
    Unreadable,
)
from bridge.job.lenient_json import whole
from bridge.runpod.answer_errors import KEY, error_of, without_key
from bridge.runpod.answers import ABSENT, Health, JobState, Purged, StreamPage, chunk, counters, job, job_of, text
from bridge.runpod.http import sent
from bridge.runpod.http.answer_reader import POSSIBLE, of_this_process
from bridge.runpod.http.exchange import Answer, speaking
from bridge.runpod.http.pools import keep_fresh, open_one
from bridge.runpod.http.proxy import check_authorities, plain_about_addresses
from bridge.runpod.meaning import JOB_ID, LISTS, SUBMITS, Meaning, body_of, meaning_of
from bridge.runpod.operations import Operation
from bridge.telemetry import tell

ENDPOINT_ID = re.compile(r"[A-Za-z0-9_\-]{1,64}")
#: Bytes of one answer at most: RunPod's own limit for a result is 20 MB (docs: handler functions); pages may hold more.
MAX_ANSWER_BYTES = 64 * 1024 * 1024
#: Seconds beyond `wait` that a held call may take.
HOLD_MARGIN_S = 10.0


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
        return job(self._call(Operation.RUN, endpoint_id, body=body))

    def runsync(self, endpoint_id: str, body: bytes, wait_ms: int) -> JobState:
        """POST /runsync?wait=ms. Answers the job's true state when the wait ends (kept 1 min only)."""
        query = f"?wait={wait_ms}"
        told = self._call(Operation.RUNSYNC, endpoint_id, body=body, query=query, hold_ms=wait_ms)
        return job(told)

    def status(self, endpoint_id: str, job_id: str) -> JobState:
        """GET /status/{id}. Reading consumes nothing."""
        return job_of(job_id, self._call(Operation.STATUS, endpoint_id, job_id))

    def begin_run(self, endpoint_id: str, body: bytes, then: Then) -> bool:
        """POST /run, whose answer no thread is held for: see `_begin`."""
        return self._begin(Operation.RUN, endpoint_id, None, body, job, then)

    def begin_status(self, endpoint_id: str, job_id: str, then: Then) -> bool:
        """GET /status/{id}, whose answer no thread is held for: see `_begin`."""
        return self._begin(Operation.STATUS, endpoint_id, job_id, None, partial(job_of, job_id), then)

    def status_sync(self, endpoint_id: str, job_id: str, wait_ms: int) -> JobState:
        """GET /status-sync/{id}?wait=ms: returns early when the job ends. Shares /status' limits."""
        told = self._call(
            Operation.STATUS, endpoint_id, job_id, path="status-sync", query=f"?wait={wait_ms}", hold_ms=wait_ms
        )
        return job(told)

    def stream(self, endpoint_id: str, job_id: str, wait_ms: int | None = None) -> StreamPage:
        """GET /stream/{id}: drains what is buffered, up to 200 chunks; an empty one holds (10 s by default).

        A page is the object that every SDK reads, or the bare array of today's docs (then without a status). What it
        holds is gone at RunPod, so a chunk of unforeseen form is kept as it is.
        """
        query = "" if wait_ms is None else f"?wait={wait_ms}"
        told = self._call(Operation.STREAM, endpoint_id, job_id, query=query, hold_ms=wait_ms or 10_000)
        status, items = told.get("status"), told.get("stream")
        chunks = tuple(chunk(item) for item in items) if isinstance(items, list) else ()
        return StreamPage(status if isinstance(status, str) else "", chunks, told.get("output", ABSENT))

    def cancel(self, endpoint_id: str, job_id: str) -> JobState:
        """POST /cancel/{id}."""
        return job(self._call(Operation.CANCEL, endpoint_id, job_id, body=b"{}"))

    def retry(self, endpoint_id: str, job_id: str) -> JobState:
        """POST /retry/{id}: only FAILED and TIMED_OUT, same id and input."""
        return job(self._call(Operation.RETRY, endpoint_id, job_id, body=b"{}"))

    def purge_queue(self, endpoint_id: str) -> Purged:
        """POST /purge-queue: removes what is IN_QUEUE, whoever sent it."""
        told = self._call(Operation.PURGE, endpoint_id, body=b"{}")
        return Purged(whole(told.get("removed")) or 0, text(told.get("status")) or "")

    def health(self, endpoint_id: str) -> Health:
        """GET /health."""
        told = self._call(Operation.HEALTH, endpoint_id)
        return Health(counters(told.get("jobs")), counters(told.get("workers")))

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
        sent.begin()
        try:
            try:
                answer = self._send(op, url, body, headers, read_s, remove=remove)
            except ApiError:
                raise
            except Exception as error:
                raise sent.fault_of(error, url.split("?", maxsplit=1)[0]) from error
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
        connection = None
        try:
            _check("endpoint id", ENDPOINT_ID, endpoint_id)
            if job_id is not None:
                _check("job id", JOB_ID, job_id)
            headers = self._headers(body)
            pool = self._pool_for(fresh=op in SUBMITS)
            connection = open_one(pool, body)
            if connection is None:
                return False
            self._waiting.ready()
        except Exception:  # noqa: BLE001  (whatever it is, nothing has left)
            if connection is not None:
                pool._put_conn(connection)  # noqa: SLF001
            return False
        started = time.monotonic()

        def answered(came: Answer | Exception) -> None:
            pool._put_conn(connection)  # noqa: SLF001
            told, code = self._told(op, came, headers, read, path)
            tell("runpod.call", endpoint=endpoint_id, op=op.value, code=code, seconds=time.monotonic() - started)
            then(told)

        sent.begin()
        try:
            connection.timeout = self._read_s
            method = "GET" if body is None else "POST"
            connection.request(method, self._path + path, body, {"Host": self._host, **headers})
            self._waiting.add(connection, answered)
        except Exception as error:  # noqa: BLE001  (told as what it is)
            connection.close()
            if not sent.left():
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
            return Told(None, sent.lost(came, self.base_url + path)), "unanswered"
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
                return {LISTS[op]: told} if isinstance(told, list) else told
        else:
            body, told = flaw
        if HTTPStatus.OK <= code < HTTPStatus.MULTIPLE_CHOICES:
            fault = without_key(str(told).encode(), headers).decode()
            raise (Unreadable if flaw is None else Unanswered)(f"RunPod's answer {fault}", code)
        raise error_of(op, answer, body, without_key(answer.body, headers))

    def _headers(self, body: bytes | None) -> dict[str, str]:
        try:
            key = self._api_key()
        except (OSError, ValueError) as error:  # a file of bytes that are no text is a ValueError
            raise KeyUnusable(f"{KEY} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}") from error
        if not key or not key.isascii() or not key.isprintable():
            fault = "is empty, or holds a line's end or another character that no header can carry"
            raise KeyUnusable(f"{KEY} {fault}")
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
        sent.begin()
        try:
            self._pool_for(fresh=True)
        except Unreachable as error:
            return error.message
        except Exception as error:  # noqa: BLE001  (nothing has left, whatever it is)
            return sent.fault_of(error, self.base_url).message
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
                pool.ConnectionCls = speaking(sent.noting(pool.ConnectionCls), self._max_bytes)
                pools[name] = pool
        keep_fresh(pools["fresh"])
        self._waiting = of_this_process() if POSSIBLE else None
        self._session, self._pools, self._pid = session, pools, os.getpid()
        return pools


def _check(what: str, pattern: re.Pattern[str], value: str) -> None:
    if not pattern.fullmatch(value):
        raise ValueError(f"{what} {value[:80]!r} must match {pattern.pattern}")
