"""A real headless browser, driven over its debugging protocol; just enough for the emulator's page."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.support.helpers import eventually

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
HOW_TO_GET_ONE = f"needs a headless browser, one of: {', '.join(PROGRAMS)} (Debian: apt-get install chromium)"


def find_browser() -> str | None:
    """Return the program of a browser, or None."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


class Browser:
    """One browser with one page."""

    def __init__(self, program: str, folder: Path) -> None:
        self._folder = folder
        flags = ("--headless", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0")
        # A container's root has no user namespace to build the sandbox from; the page is our own.
        sandbox = ("--no-sandbox",) if os.geteuid() == 0 else ()
        self._log = (folder / "browser.log").open("wb")
        self._process = subprocess.Popen(
            [program, *flags, *sandbox, f"--user-data-dir={folder / 'profile'}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            start_new_session=True,  # the program is a script that starts others
        )
        self._numbers = 0
        self._open = ExitStack()
        self._socket: ClientConnection
        #: Errors and exceptions the page's script had.
        self.errors: list[str] = []

    def __enter__(self) -> Self:
        try:
            address = eventually(self._address, timeout=30)
            pages = httpx.get(f"http://{address}/json/list").json()
            target = next(page for page in pages if page["type"] == "page")
            self._socket = self._open.enter_context(connect(target["webSocketDebuggerUrl"], max_size=None))
            self.tell("Runtime.enable")
            self.tell("Page.enable")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def go(self, url: str) -> None:
        """Open `url`."""
        self.tell("Page.navigate", url=url)
        eventually(lambda: self.eval("document.readyState") == "complete")

    def eval(self, script: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        told = self.tell("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in told:
            raise AssertionError(told["exceptionDetails"])
        return told["result"].get("value")

    def click(self, selector: str) -> None:
        """Press the mouse on the middle of the first element that `selector` finds."""
        place = self.eval(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView();"
            " const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for what in ("mousePressed", "mouseReleased"):
            self.tell("Input.dispatchMouseEvent", type=what, x=place[0], y=place[1], button="left", clickCount=1)

    def tell(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command of the debugging protocol, return its result."""
        self._numbers += 1
        self._socket.send(json.dumps({"id": self._numbers, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=20))
            if message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(message["params"]["exceptionDetails"]))
            if message.get("id") == self._numbers:
                return dict(message["result"])

    def _address(self) -> str | None:
        found = re.search(r"ws://([^/]+)/", (self._folder / "browser.log").read_text(errors="replace"))
        return found[1] if found else None

    def _end(self) -> None:
        self._open.close()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()
