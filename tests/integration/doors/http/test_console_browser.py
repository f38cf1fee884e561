"""The console in a real browser: headless Chromium, wide and narrow, light and dark, and by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.chromium import Tab, chromium
from tests.support.console import console_house
from tests.support.helpers import eventually
from tests.support.house import House
from tests.support.servers import RedisServer

pytestmark = pytest.mark.slow

HOSTILE = '<img src=x onerror="window.hurt=1"><script>window.hurt=1</script>\'">'
#: What can be tabbed to and has no name, and fields without a label.
NAMELESS = """[...document.querySelectorAll('a, button, input:not([type=hidden]), select')]
  .filter(one => !(one.innerText || one.getAttribute('aria-label') || one.labels?.length)).map(one => one.outerHTML)"""
WIDER = "document.documentElement.scrollWidth - innerWidth"


@pytest.fixture(scope="module")
def place(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, Tab, str]]:
    """One worker, one browser, and some requests, letters and a pause to look at."""
    url = redis_server.start().fresh_url()
    with (
        console_house(tmp_path_factory.mktemp("console"), url, console_content="on") as (house, client),
        chromium(tmp_path_factory.mktemp("chromium")) as tab,
    ):
        house.send({"note": HOSTILE}, task_id="shown-1", metadata={"tenant": "acme", "note": HOSTILE})
        house.send({"mock_error": HOSTILE}, task_id="shown-2")
        house.send({"mock_stream": [HOSTILE, "b"], "mock_aggregate": True}, task_id="shown-3", stream=True)
        house.client.xadd("bridge:requests", {"data": f'{{"x{HOSTILE.replace(chr(34), "")}": 1}}'})
        ids = ["shown-1", "shown-2", "shown-3"]
        eventually(lambda: house.ledger.phases(ids) == ["CLOSED"] * 3 and house.ledger.dead.count() == 1, timeout=30)
        yield house, tab, str(client.base_url).rstrip("/")


def test_each_page_fits_obeys_its_policy_and_runs_nothing_of_a_callers(place: tuple[House, Tab, str]) -> None:
    """Nothing is wider than the window, nothing was blocked or failed, nothing has no name; hostile text is text."""
    house, tab, base = place
    letter = house.ledger.dead.newest(1)[0]["id"]
    paths = ["/", "/requests", "/requests?q=shown&tenant=acme", "/scheduled", "/dead", "/paused", "/endpoints/demo"]
    paths += [f"/requests/shown-{n}{more}" for n in (1, 2, 3) for more in ("", "/content")]
    paths += [f"/dead/{letter}", "/endpoints/demo/purge", "/requests/shown-2/retry"]
    tab.said.clear()
    for width, dark in ((1280, False), (390, True)):
        tab.size(width, dark=dark)
        for path in paths:
            tab.open(base + path)
            assert tab.run(WIDER) <= 0, (path, width)
            assert tab.run(NAMELESS) == [], path
            assert tab.run("window.hurt") is None, path
            assert tab.run("document.querySelectorAll('script').length") == 1, path
    assert tab.said == []


def test_an_error_of_many_lines_keeps_them_and_leaves_the_rest_of_the_page_in_reach(
    place: tuple[House, Tab, str],
) -> None:
    """As handlers write tracebacks; a long one scrolls in its own box."""
    house, tab, base = place
    house.send({"mock_error": "first\n" * 500 + "last"}, task_id="long-error")
    eventually(lambda: house.ledger.phases(["long-error"]) == ["CLOSED"], timeout=30)
    tab.size(1280)
    tab.open(base + "/requests/long-error")
    box = "document.querySelector('.trouble p')"
    assert tab.run(f"{box}.clientHeight") <= 900 * 0.6
    assert tab.run(f"{box}.scrollHeight") > 500 * 10


def test_a_page_shows_what_has_changed_without_being_loaded_again(place: tuple[House, Tab, str]) -> None:
    """The overview counts, the list grows, a request ends; and what somebody has opened or typed stays."""
    house, tab, base = place
    tab.size(1280)
    tab.open(f"{base}/requests")
    tab.run("window.same = true, document.querySelector('[data-search]').value = 'typed'")
    house.send({"mock_delay": 1.5}, task_id="live-1")
    eventually(lambda: tab.run("!!document.getElementById('r-live-1')"))
    assert tab.run("window.same && document.querySelector('[data-search]').value") == "typed"
    tab.open(f"{base}/requests/live-1")
    tab.run("window.same = true")
    eventually(lambda: "COMPLETED" in tab.text() and "executionTime" in tab.text(), timeout=20)
    assert tab.run("window.same")
    assert tab.run("document.body.classList.contains('live')") is False  # it has ended: nothing more will change


def test_a_request_is_found_opened_and_cancelled_by_keyboard_alone(place: tuple[House, Tab, str]) -> None:
    """G r, /, text, Enter, Esc, j, Enter; the question is a dialog that Esc leaves and Enter says yes to."""
    house, tab, base = place
    house.send({"mock_delay": 60}, task_id="keys-1")
    eventually(lambda: house.phase("keys-1") == "TRACKED")
    tab.size(1280)
    tab.open(f"{base}/")
    tab.run("window.left = true")
    tab.press("g", "r")
    eventually(lambda: tab.run("!window.left && location.pathname") == "/console/requests")
    eventually(lambda: tab.run("document.readyState") == "complete")
    tab.press("/", *"keys-1", "Enter")
    eventually(lambda: tab.run("location.search") == "?q=keys-1")
    eventually(lambda: tab.run("document.readyState === 'complete' && !!document.getElementById('r-keys-1')"))
    tab.press("j", "Enter")
    eventually(lambda: tab.run("location.pathname") == "/console/requests/keys-1")
    eventually(lambda: tab.run("document.readyState") == "complete")
    for _ in range(2):
        tab.run("document.querySelector('a[data-ask]').focus()")
        tab.press("Enter")
        eventually(lambda: tab.run("document.querySelector('dialog').open && document.activeElement.name"))
        if _ == 0:
            tab.press("Escape")
            eventually(lambda: tab.run("!document.querySelector('dialog').open"))
    assert house.phase("keys-1") == "TRACKED"
    tab.press(*"ada", "Enter")
    eventually(lambda: house.phase("keys-1") == "CLOSED", timeout=20)
    (ended,) = [event["data"] for event in house.events("keys-1") if event["type"] == "bridge.job.cancelled"]
    assert (ended["wish"]["by"], ended["wish"]["door"]) == ("ada", "console")
    eventually(lambda: "ada, console" in tab.text(), timeout=20)


def test_marked_letters_are_dropped_from_the_list_and_what_is_marked_stays_marked(
    place: tuple[House, Tab, str],
) -> None:
    """The question is a dialog about those alone; a letter that comes meanwhile does not move the marks."""
    house, tab, base = place
    before = {one["id"] for one in house.ledger.dead.newest()}
    for _ in range(3):
        house.client.xadd("bridge:requests", {"data": "{"})
    eventually(lambda: house.ledger.dead.count() == len(before) + 3)
    mine = [one["id"] for one in house.ledger.dead.newest() if one["id"] not in before]
    tab.size(1280)
    tab.open(f"{base}/dead")
    for letter in mine[:2]:
        tab.run(f"document.querySelector('input[value=\"{letter}\"]').click()")
    eventually(lambda: tab.run("document.body.classList.contains('resting')"), timeout=20)
    tab.click("#selected button.danger")
    eventually(lambda: tab.run("document.querySelector('dialog').open"))
    assert tab.run("document.querySelector('dialog [name=letters]').value.split(',').length") == 2
    tab.run("document.querySelector('dialog form.ask button:not([type])').click()")
    eventually(lambda: "2 dropped." in tab.text(), timeout=20)
    left = {one["id"] for one in house.ledger.dead.newest()} - before
    assert left == {mine[2]}


def test_a_console_whose_bridge_is_away_says_so_and_goes_on(place: tuple[House, Tab, str], tmp_path: Path) -> None:
    """The page stays as it is, and says that it is not live."""
    _, tab, base = place
    tab.size(1280)
    tab.open(f"{base}/")
    conditions = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    tab.call("Network.emulateNetworkConditions", offline=True, **conditions)
    try:
        eventually(lambda: "No answer" in tab.text())
        assert "demo" in tab.text()
    finally:
        tab.call("Network.emulateNetworkConditions", offline=False, **conditions)
    eventually(lambda: "No answer" not in tab.text(), timeout=20)
    tab.picture(tmp_path / "seen.png")
    assert (tmp_path / "seen.png").stat().st_size > 10_000
