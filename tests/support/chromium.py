"""A headless Chromium by its own protocol: open a page, look at it, use mouse and keys, take a picture."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from bridge.embedded import tied
from tests.support.helpers import COMMAND_S, eventually

#: The smallest first, which has no window to show.
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
HOW_TO_GET_CHROMIUM = (
    f"no browser here, one of: {', '.join(NAMES)}: the pages are NOT proven "
    "(Debian: apt-get install chromium-headless-shell)"
)


def find_chromium() -> str | None:
    """The program, None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


_CODES = {"Tab": 9, "Escape": 27}


class Tab:
    """One page."""

    def __init__(self, socket: ClientConnection) -> None:
        """Connected; blank."""
        self._socket = socket
        self._numbers = itertools.count(1)
        #: What the page has said in its console, policy violations among it, and exceptions.
        self.said: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One call of the protocol. Raises RuntimeError with what the browser says."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        ends = time.monotonic() + COMMAND_S
        while time.monotonic() < ends:
            told = json.loads(self._socket.recv(timeout=COMMAND_S))
            if told.get("id") == number:
                if "error" in told:
                    raise RuntimeError(f"{method}: {told['error']}")
                result: dict[str, Any] = told["result"]
                return result
            self._heard(told)
        raise TimeoutError(method)

    def _heard(self, told: dict[str, Any]) -> None:
        params = told.get("params", {})
        match told.get("method"):
            case "Log.entryAdded":
                self.said.append(params["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.said.append(json.dumps(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled":
                self.said.append(json.dumps(params["args"]))

    def size(self, width: int, height: int = 900, *, dark: bool = False, scale: float = 1) -> None:
        """The window's, and whether its owner likes it dark."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        liked = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=liked)

    def open(self, url: str) -> None:
        """And wait until it is there."""
        self.run("window.left = true")
        self.call("Page.navigate", url=url)
        eventually(lambda: self.run("!window.left && document.readyState === 'complete'"))

    def run(self, script: str) -> Any:
        """The value of an expression; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def text(self) -> str:
        """What can be read on it."""
        return str(self.run("document.body.innerText"))

    def click(self, selector: str) -> None:
        """Press the mouse on the middle of the first element that `selector` finds."""
        x, y = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView();"
            " const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, *keys: str) -> None:
        """One after the other, as a keyboard does."""
        for key in keys:
            more = {"text": "\r", "windowsVirtualKeyCode": 13} if key == "Enter" else {}
            more = {"text": key} if len(key) == 1 else more
            more = {"windowsVirtualKeyCode": _CODES[key]} if key in _CODES else more
            self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **more)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """A PNG of the window, or of the whole page."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))


@contextmanager
def chromium(folder: Path) -> Iterator[Tab]:
    """One tab of a browser of its own, which ends with it; skips where there is none."""
    program = find_chromium()
    if program is None:
        pytest.skip(HOW_TO_GET_CHROMIUM)
    options = ["--headless=new", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage", "--hide-scrollbars"]
    options += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server"]
    options += ["--remote-debugging-port=0", f"--user-data-dir={folder}"]
    if os.geteuid() == 0:
        options.append("--no-sandbox")  # it refuses root with one; the pages are the test's own
    with subprocess.Popen(
        tied(program, *options, "about:blank"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # the program may be a script that starts others
    ) as process:
        try:
            port_file = folder / "DevToolsActivePort"
            eventually(lambda: port_file.is_file() and len(port_file.read_text().split()) == 2, timeout=30)
            port = port_file.read_text().split()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=COMMAND_S) as answer:
                tabs = json.load(answer)
            url = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
            with connect(url, max_size=None, open_timeout=COMMAND_S, proxy=None) as socket:
                yield Tab(socket)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
