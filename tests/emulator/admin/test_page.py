"""The page at `/`, in a real headless browser, used with the mouse."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.emulator.admin.browser import HOW_TO_GET_ONE, Browser, find_browser
from tests.support.helpers import eventually


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """A headless browser; skipped loudly where there is none, a failure in CI."""
    program = find_browser()
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail(HOW_TO_GET_ONE)
        pytest.skip(HOW_TO_GET_ONE)
    with Browser(program, tmp_path) as started:
        yield started


def text(browser: Browser, selector: str) -> str:
    """Return what a reader sees of an element."""
    return str(browser.eval(f"document.querySelector({selector!r})?.innerText ?? ''"))


def test_the_page_shows_sends_cancels_and_injects_live(call: Any, browser: Browser) -> None:
    """One walk over all of it."""
    browser.go(call.emulator.origin)
    eventually(lambda: "demo" in text(browser, "#endpoints tbody"))
    assert text(browser, "#base") == call.emulator.base_url

    browser.eval("""document.querySelector('#send textarea').value = '{"mock_delay": 600, "who": "page"}'""")
    browser.click("#send button")
    job = eventually(lambda: call.emulator.jobs("demo")[0])
    assert job["input"] == {"mock_delay": 600, "who": "page"}
    eventually(lambda: "IN_PROGRESS" in text(browser, "#jobs tbody"))

    browser.click(f'button[data-job="{job["id"]}"]')
    eventually(lambda: call.status(job["id"])["status"] == "CANCELLED")
    eventually(lambda: "CANCELLED" in text(browser, "#jobs tbody"))

    browser.eval("document.querySelector('#fault select[name=kind]').value = 'out_of_credit'")
    browser.click("#fault button:not([type=button])")
    eventually(lambda: "out_of_credit" in text(browser, "#faults"))
    assert call.get("health").status_code == 402

    browser.click("#advance button")
    eventually(lambda: text(browser, "#told") == "Advanced")
    assert httpx.get(f"{call.emulator.origin}/_emulator/clock").json()["now"] >= 60
    assert browser.errors == []


def test_bad_input_is_told_and_markup_stays_text(call: Any, browser: Browser) -> None:
    """Inputs and outputs are anybody's."""
    call.run({"text": "<img src=x onerror=window.hurt=1>"})
    browser.go(call.emulator.origin)
    eventually(lambda: "onerror" in text(browser, "#jobs tbody"))
    assert browser.eval("document.querySelectorAll('#jobs img').length") == 0
    browser.eval("document.querySelector('#send textarea').value = '[1'")
    browser.click("#send button")
    eventually(lambda: text(browser, "#told").startswith("Not done: "))
    browser.eval("document.querySelector('#send textarea').value = '[1]'")
    browser.click("#send button")
    eventually(lambda: "input" in text(browser, "#told"))


def test_the_page_is_one_file_without_outside_help(call: Any) -> None:
    """No font, script or style from elsewhere."""
    page = httpx.get(call.emulator.origin + "/")
    assert page.headers["content-type"].startswith("text/html")
    assert "http://" not in page.text
    assert "https://" not in page.text
