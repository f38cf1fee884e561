"""`Emulator`: RunPod Serverless on loopback, in a thread of its own, for tests and for `bridge emulate`."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import re
import shutil
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from bridge.emulator.config import EndpointConfig, Handler
from bridge.emulator.http.listen import listening
from bridge.emulator.http.origins import is_loopback
from bridge.emulator.platform import BATCH_LANE, Platform

T = TypeVar("T")

#: What stands in a path as it is, and what clients take for an endpoint's id.
_NAME = re.compile(r"[A-Za-z0-9_-]+")
#: Seconds to come up, and to end handler processes.
START_S, STOP_S = 20.0, 20.0


class Emulator:
    """RunPod's side of the wire at `base_url`, for any number of endpoints.

    Args:
        endpoints: names, or names with their `EndpointConfig`.
        api_keys: keys that are let in, as `Bearer <key>` or bare.
        host: address to listen on. The admin API asks for no key, so keep it on loopback.
        port: 0 takes a free one; `base_url` tells it.
        speed: virtual seconds per real second, for retentions, timeouts, delays and limits.
        handlers: endpoint name to the file of an unmodified handler (`runpod.serverless.start`), which then runs
            in real processes, or a `Handler` with another Python or arguments; other endpoints have the built-in
            RunPod worker.
        limits: whether rate and concurrency limits are enforced.
    """

    def __init__(
        self,
        endpoints: Sequence[str] | Mapping[str, EndpointConfig] = ("demo",),
        api_keys: Sequence[str] = ("test-key",),
        host: str = "127.0.0.1",
        port: int = 0,
        speed: float = 1.0,
        handlers: Mapping[str, str | PathLike[str] | Handler] | None = None,
        limits: bool = True,
    ) -> None:
        for name, value in (("endpoints", endpoints), ("api_keys", api_keys)):
            if isinstance(value, str):
                raise TypeError(f"{name} is a list of texts, not the text {value!r}")
        self._configs = dict(endpoints) if isinstance(endpoints, Mapping) else {n: EndpointConfig() for n in endpoints}
        self._handlers = {name: _handler(given) for name, given in (handlers or {}).items()}
        for name, config in self._configs.items():
            if not _NAME.fullmatch(name) or name.endswith(BATCH_LANE):
                raise ValueError(
                    f"an endpoint's name is made of A-Z a-z 0-9 _ -, as RunPod's ids are, and ends in no {BATCH_LANE}: "
                    f"not {name!r}"
                )
            if not isinstance(config, EndpointConfig):
                raise TypeError(f"endpoint {name!r} needs an EndpointConfig, not {config!r}")
        for name, handler in self._handlers.items():
            _check(name, handler, self._configs)
        if not 0 < speed < math.inf:
            raise ValueError(f"speed must be a number above 0, not {speed}")
        if not api_keys or not all(api_keys):  # an empty one is a variable that was not set: no client sends it
            raise ValueError("at least one API key is needed, and none may be empty, or nobody is let in")
        self._keys = frozenset(api_keys)
        self._host, self._port, self._speed, self._limits = host, port, speed, limits
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._halt: asyncio.Event | None = None
        self._platform: Platform | None = None
        self._up: Future[None] = Future()

    # ---------------------------------------------------------------- life

    def start(self) -> Self:
        """Listen and answer; returns when it does. The port stays the same over stop and start."""
        if self._thread is not None:
            return self
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listener = socket.create_server((self._host, self._port), family=family, backlog=2048)
        self._port = listener.getsockname()[1]
        self._up = Future()
        self._thread = threading.Thread(target=self._run, args=(listener,), name="emulator", daemon=True)
        self._thread.start()
        try:
            self._up.result(START_S)
        except BaseException:
            self._thread = None
            raise
        return self

    def stop(self) -> None:
        """Stop listening, end every handler process. Jobs are forgotten. Stopping twice is fine."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        loop, halt = self._loop, self._halt
        if loop is not None and halt is not None:
            with contextlib.suppress(RuntimeError):  # it may be ending by itself
                loop.call_soon_threadsafe(halt.set)
        thread.join(STOP_S)
        if thread.is_alive():
            raise TimeoutError(f"the emulator did not stop within {STOP_S} s")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def origin(self) -> str:
        """The address: `http://127.0.0.1:PORT`; loopback also when it listens on every address."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self._host, self._host)  # noqa: S104
        return f"http://[{host}]:{self._port}" if ":" in host else f"http://{host}:{self._port}"

    @property
    def base_url(self) -> str:
        """What RunPod's clients call the base URL: `http://127.0.0.1:PORT/v2`."""
        return f"{self.origin}/v2"

    # ---------------------------------------------------------------- admin, as under /_emulator

    def fault(
        self,
        kind: str,
        op: str | None = None,
        endpoint: str | None = None,
        times: int | None = 1,
        probability: float | None = None,
        **args: Any,
    ) -> None:
        """Let `kind` go wrong on the next `times` calls (None: until cleared) of `op` on `endpoint` (None: any).

        With `probability`, each such call is hit with that chance until `clear_faults`. Kinds and their
        arguments: `bridge.emulator.model.faults`. Raises ValueError for what no fault can be.
        """
        self._do(lambda p: p.admin.fault(kind, op, endpoint, times, probability, **args))

    def clear_faults(self) -> None:
        """Forget all faults; paused endpoints go on."""
        self._do(lambda p: p.admin.clear_faults())

    def batches(self, endpoint: str) -> list[dict[str, Any]]:
        """Return all batches of `endpoint`, newest first, as GET /batch lists them."""
        return self._do(lambda p: p.admin.batches(endpoint))

    def advance(self, seconds: float) -> None:
        """Move the virtual clock forward; returns when everything due on the way has happened."""
        self._await(lambda p: p.admin.advance(seconds))

    def jobs(self, endpoint: str) -> list[dict[str, Any]]:
        """Return all jobs of `endpoint`: /status document, `input`, `webhook`, `runs`, `created`, `started`."""
        return self._do(lambda p: p.admin.jobs(endpoint))

    def calls(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """Return received calls, oldest first: `time` (virtual s), `endpoint`, `op`, `job_id`, `code` (0: none)."""
        return self._do(lambda p: p.admin.calls(endpoint))

    def counts(self) -> dict[str, Any]:
        """Return per endpoint: submitted, completed, failed, cancelled, ..., and calls per operation and code."""
        return self._do(lambda p: p.admin.counts())

    # ---------------------------------------------------------------- inside

    def _do(self, act: Callable[[Platform], T]) -> T:
        async def later(platform: Platform) -> T:
            return act(platform)

        return self._await(later)

    def _await(self, act: Callable[[Platform], Awaitable[T]]) -> T:
        loop, platform = self._loop, self._platform
        if self._thread is None or loop is None or platform is None:
            raise RuntimeError("the emulator is not running: call start() first")

        async def run() -> T:
            return await act(platform)

        return asyncio.run_coroutine_threadsafe(run(), loop).result()

    def _run(self, listener: socket.socket) -> None:
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(self._serve(listener))
        except BaseException as error:
            if self._up.done():
                raise  # told by the thread's own hook
            self._up.set_exception(error)
        finally:
            listener.close()

    async def _serve(self, listener: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        halt = self._halt = asyncio.Event()
        platform = self._platform = Platform(
            self._configs,
            self._keys,
            self._handlers,
            speed=self._speed,
            limits=self._limits,
            loopback=is_loopback(self._host),
        )
        try:
            async with listening(platform.front, listener):
                platform.start(self.origin)
                self._up.set_result(None)
                await halt.wait()
                await platform.stop()  # first, so that handler processes hear the end of their calls
        finally:
            self._loop = self._platform = self._halt = None


def _handler(given: str | PathLike[str] | Handler) -> Handler:
    """Return the handler with absolute paths: its processes run in folders of their own."""
    handler = given if isinstance(given, Handler) else Handler(Path(given))
    python = os.path.abspath(handler.python) if os.sep in handler.python else handler.python  # noqa: PTH100 - no links
    return replace(handler, file=handler.file.resolve(), python=python)


def _check(name: str, handler: Handler, endpoints: Mapping[str, EndpointConfig]) -> None:
    if name not in endpoints:
        raise ValueError(f"handler {handler.file} is for endpoint {name!r}, which is not one of {list(endpoints)}")
    if not handler.file.is_file():
        raise ValueError(f"handler of endpoint {name!r}: no such file: {handler.file}")
    if shutil.which(handler.python) is None:
        raise ValueError(f"handler of endpoint {name!r}: no such Python: {handler.python}")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        return None
    return uvloop.new_event_loop
