"""The page at `/`, in a real headless browser, used with the mouse."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.chromium import Tab, chromium
from tests.support.helpers import eventually

pytestmark = pytest.mark.slow


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Tab]:
    """Of a headless browser."""
    with chromium(tmp_path) as opened:
        yield opened


def text(tab: Tab, selector: str) -> str:
    """Return what a reader sees of an element."""
    return str(tab.run(f"document.querySelector({selector!r})?.innerText ?? ''"))


def test_the_page_shows_sends_cancels_and_injects_live(call: Any, tab: Tab) -> None:
    """One walk over all of it."""
    tab.open(call.emulator.origin)
    eventually(lambda: "demo" in text(tab, "#endpoints tbody"))
    assert text(tab, "#base") == call.emulator.base_url

    tab.run("""document.querySelector('#send textarea').value = '{"mock_delay": 600, "who": "page"}'""")
    tab.click("#send button")
    job = eventually(lambda: call.emulator.jobs("demo")[0])
    assert job["input"] == {"mock_delay": 600, "who": "page"}
    eventually(lambda: "IN_PROGRESS" in text(tab, "#jobs tbody"))

    tab.click(f'button[data-job="{job["id"]}"]')
    eventually(lambda: call.status(job["id"])["status"] == "CANCELLED")
    eventually(lambda: "CANCELLED" in text(tab, "#jobs tbody"))

    tab.run("document.querySelector('#fault select[name=kind]').value = 'out_of_credit'")
    tab.click("#fault button:not([type=button])")
    eventually(lambda: "out_of_credit" in text(tab, "#faults"))
    assert call.get("health").status_code == 402

    tab.click("#advance button")
    eventually(lambda: text(tab, "#told") == "Advanced")
    assert httpx.get(f"{call.emulator.origin}/_emulator/clock").json()["now"] >= 60
    assert tab.said == []


def test_bad_input_is_told_and_markup_stays_text(call: Any, tab: Tab) -> None:
    """Inputs and outputs are anybody's."""
    call.run({"text": "<img src=x onerror=window.hurt=1>"})
    tab.open(call.emulator.origin)
    eventually(lambda: "onerror" in text(tab, "#jobs tbody"))
    assert tab.run("document.querySelectorAll('#jobs img').length") == 0
    tab.run("document.querySelector('#send textarea').value = '[1'")
    tab.click("#send button")
    eventually(lambda: text(tab, "#told").startswith("Not done: "))
    tab.run("document.querySelector('#send textarea').value = '[1]'")
    tab.click("#send button")
    eventually(lambda: "input" in text(tab, "#told"))


def test_the_page_is_one_file_without_outside_help(call: Any) -> None:
    """No font, script or style from elsewhere."""
    page = httpx.get(call.emulator.origin + "/")
    assert page.headers["content-type"].startswith("text/html")
    assert "http://" not in page.text
    assert "https://" not in page.text
