"""Who may come into the console: password, trusted proxy, read-only mode; against a real ledger."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from celery import Celery
from starlette.applications import Starlette

from bridge.doors.http.console import session
from bridge.doors.http.console.routes import build
from bridge.errors import SettingsError
from bridge.process.components import Components
from bridge.settings import load
from tests.support.console import token
from tests.support.helpers import eventually

PASSWORD = "correct horse battery"
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1"))
ELSEWHERE = "203.0.113.9"


class Browser:
    """Asks the application itself, from an address of its own, and keeps its cookies."""

    def __init__(self, app: Starlette, address: str = "127.0.0.1", host: str = "127.0.0.1:9464") -> None:
        """Nothing is open between two calls."""
        self._app, self._address, self._host = app, address, host
        self.cookies = httpx.Cookies()

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """One call."""

        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(app=self._app, client=(self._address, 4711))
            base = f"http://{self._host}"
            async with httpx.AsyncClient(transport=transport, base_url=base, cookies=self.cookies) as client:
                answer = await client.request(method, f"/console{path}", **more)
                self.cookies = client.cookies
                return answer

        return asyncio.run(asked())

    def get(self, path: str, **headers: str) -> httpx.Response:
        """A page."""
        return self.ask("GET", path, headers=headers)

    def log_in(self, password: str, name: str = "", to: str = "") -> httpx.Response:
        """By the form."""
        form = token(self.get("/login").text)
        query = f"?to={to}" if to else ""
        return self.ask("POST", f"/login{query}", data={"form": form, "password": password, "name": name})


@pytest.fixture
def has(redis_url: str) -> Iterator[Components]:
    """A bridge's parts, without a worker."""
    settings = load(
        celery_broker_url=redis_url, bridge_redis_url=redis_url, celery_result_backend=redis_url,
        runpod_api_key="k", runpod_endpoint_id="demo", runpod_endpoint_base_url="http://127.0.0.1:1",
    )  # fmt: skip
    made = Components(settings, Celery("none", set_as_current=False))
    yield made
    made.client.close()


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file with the password."""
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n")
    return path


def app(has: Components, **more: Any) -> Starlette:
    """The console alone."""

    def replay(_letter: Mapping[str, Any], _new_id: str | None) -> str:
        raise AssertionError

    given: dict[str, Any] = {
        "password_file": None, "user_header": "", "proxies": LOOPBACK, "read_only": False, "content": False, **more,
    }  # fmt: skip
    made = build(
        ledger=has.ledger,
        control=has.control,
        pressure=has.pressure,
        replay=replay,
        redact=frozenset(),
        broker_answers=lambda: None,
        **given,
    )
    return Starlette(routes=list(made.routes))


def test_the_password_opens_and_its_session_holds_in_every_process(has: Components, secret: Path) -> None:
    """From any address; the name that was given stands on the page; the cookie is the browser's alone."""
    browser = Browser(app(has, password_file=secret), ELSEWHERE, "bridge.example")
    sent = browser.get("/requests?state=ended")
    assert sent.status_code == 303
    assert sent.headers["location"] == "/console/login?to=%2Fconsole%2Frequests%3Fstate%3Dended"
    assert browser.get("/", **{"x-console-part": "1"}).status_code == 401
    done = browser.log_in(PASSWORD, "Ada", "/console/requests")
    assert (done.status_code, done.headers["location"]) == (303, "/console/requests")
    cookie = done.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "path=/console" in cookie
    assert "Ada" in browser.get("/").text
    another = Browser(app(has, password_file=secret), ELSEWHERE, "bridge.example")
    another.cookies = browser.cookies
    page = another.get("/")
    assert page.status_code == 200
    assert another.ask("POST", "/logout", data={"form": token(page.text)}).status_code == 303
    assert another.get("/").status_code == 303


def test_a_logout_ends_the_session_itself_in_every_process(has: Components, secret: Path) -> None:
    """The old cookie opens nothing any more; another session of the same name goes on, and its forms are its own."""
    browsers = [Browser(app(has, password_file=secret)) for _ in range(2)]
    for browser in browsers:
        browser.log_in(PASSWORD, "Ada")
    forms = [token(browser.get("/").text) for browser in browsers]
    assert forms[0] != forms[1]
    assert browsers[0].ask("POST", "/logout", data={"form": forms[1]}).status_code == 403
    kept = httpx.Cookies(browsers[0].cookies)
    assert browsers[0].ask("POST", "/logout", data={"form": forms[0]}).status_code == 303
    for served in (app(has, password_file=secret), app(has, password_file=secret)):
        old = Browser(served)
        old.cookies = kept
        assert old.get("/").status_code == 303
    assert browsers[1].get("/").status_code == 200


def test_behind_a_trusted_proxy_wrong_passwords_count_by_the_browsers_address(has: Components, secret: Path) -> None:
    """One guesser does not shut out all who come by the proxy; what others forward is anybody's word."""
    served = app(has, password_file=secret)

    def guess(browser: Browser, forwarded: str) -> httpx.Response:
        form = token(browser.get("/login").text)
        data = {"form": form, "password": "a guess"}
        return browser.ask("POST", "/login", data=data, headers={"x-forwarded-for": forwarded})

    proxied = Browser(served)
    codes = [guess(proxied, f"198.51.100.{n}, {ELSEWHERE}") for n in range(session.TRIES + 1)]
    assert [code.status_code for code in codes] == [403] * session.TRIES + [429]
    assert 1 <= int(codes[-1].headers["retry-after"]) <= session.TRY_S
    assert guess(proxied, "203.0.113.10").status_code == 403
    direct = Browser(served, "203.0.113.77")
    assert [guess(direct, f"198.51.100.{n}").status_code for n in range(session.TRIES + 1)][-1] == 429


@pytest.mark.parametrize(
    "to", ["https://evil.example", "//evil.example", "/console/../x", "/console/logout", "javascript:1"]
)
def test_a_login_leads_nowhere_else(to: str, has: Components, secret: Path) -> None:
    """What follows it is a page of the console."""
    browser = Browser(app(has, password_file=secret))
    assert browser.log_in(PASSWORD, to=to).headers["location"] in {"/console/", "/console/../x"}


def test_wrong_passwords_are_refused_and_then_slowed_for_that_address_alone(has: Components, secret: Path) -> None:
    """Also the right one has to wait then; another address does not."""
    served = app(has, password_file=secret)
    guesser = Browser(served, ELSEWHERE)
    codes = [guesser.log_in(f"guess {n}").status_code for n in range(session.TRIES + 1)]
    assert codes == [403] * session.TRIES + [429]
    assert guesser.log_in(PASSWORD).status_code == 429
    assert Browser(served, "203.0.113.10").log_in(PASSWORD).status_code == 303


def test_forged_and_outlived_sessions_are_none(has: Components, secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cookie of somebody's own making, one that is over, and all of them once the password is another."""
    served = app(has, password_file=secret)
    browser = Browser(served)
    for forged in ("", "x", "QWRh.9999999999." + "0" * 64, "..", "QWRh.9999999999"):
        browser.cookies = httpx.Cookies({"bridge_console": forged})
        assert browser.get("/").status_code == 303, forged
    browser.cookies = httpx.Cookies()
    monkeypatch.setattr(session, "SESSION_S", -1)
    browser.log_in(PASSWORD)
    assert browser.get("/").status_code == 303
    monkeypatch.undo()
    browser.log_in(PASSWORD)
    assert browser.get("/").status_code == 200
    secret.write_text("another password\n")
    eventually(lambda: browser.get("/").status_code == 303)
    assert browser.log_in("another password").status_code == 303


def test_a_header_names_somebody_only_where_a_trusted_proxy_sends_it(has: Components) -> None:
    """From elsewhere it is anybody's word, whatever else is forwarded with it."""
    trusted = (ipaddress.ip_network("10.0.0.0/8"),)
    served = app(has, user_header="X-Forwarded-User", proxies=trusted)
    good = Browser(served, "10.1.2.3", "bridge.example").get("/", **{"x-forwarded-user": "ada@example.com"})
    assert good.status_code == 200
    assert "ada@example.com" in good.text
    assert Browser(served, "10.1.2.3").get("/").status_code == 403
    forged = {"x-forwarded-user": "ada", "x-forwarded-for": "10.1.2.3", "forwarded": "for=10.1.2.3"}
    assert Browser(served, ELSEWHERE).get("/", **forged).status_code == 403
    assert Browser(served, "::ffff:10.1.2.3").get("/", **{"x-forwarded-user": "ada"}).status_code == 200


def test_with_both_a_proxy_names_who_comes_by_it_and_others_need_the_password(has: Components, secret: Path) -> None:
    """One does not shut the other out."""
    served = app(has, user_header="X-User", password_file=secret)
    assert Browser(served).get("/", **{"x-user": "ada"}).status_code == 200
    assert Browser(served, ELSEWHERE).get("/", **{"x-user": "ada"}).status_code == 303


def test_a_secure_cookie_is_set_where_the_browser_came_by_tls(has: Components, secret: Path) -> None:
    """As a trusted proxy says; from elsewhere that is anybody's word."""
    served = app(has, password_file=secret)
    for address, secure in (("127.0.0.1", True), (ELSEWHERE, False)):
        browser = Browser(served, address)
        form = token(browser.get("/login").text)
        told = browser.ask(
            "POST", "/login", data={"form": form, "password": PASSWORD}, headers={"x-forwarded-proto": "https"}
        )
        assert ("secure" in told.headers["set-cookie"].lower()) is secure


def test_a_read_only_console_changes_nothing_and_offers_nothing(has: Components) -> None:
    """Neither question nor deed; and no button leads there."""
    browser = Browser(app(has, read_only=True))
    for path in ("/endpoints/demo/pause", "/endpoints/demo/purge", "/requests/a/cancel", "/dead/1-1/drop"):
        assert browser.get(path).status_code == 403
        assert browser.ask("POST", path, data={}).status_code == 403
    page = browser.get("/endpoints/demo").text
    assert "Read only" in page
    assert "data-ask" not in page
    assert not has.gate.state("demo").paused


def test_inputs_and_outputs_are_shown_only_where_that_is_set(has: Components) -> None:
    """Whatever the address."""
    answer = Browser(app(has)).get("/requests/a/content")
    assert (answer.status_code, "BRIDGE_CONSOLE_CONTENT" in answer.text) == (403, True)


def test_a_ledger_that_is_away_is_a_page_that_looks_again(has: Components, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a crash."""
    browser = Browser(app(has))
    assert browser.get("/").status_code == 200

    def away(*_: object, **__: object) -> None:
        raise redis.ConnectionError("refused")

    monkeypatch.setattr(has.client, "execute_command", away)
    answer = browser.get("/requests")
    assert answer.status_code == 503
    assert "data-live" in answer.text


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"bridge_http_bind": "0.0.0.0:9464"}, "PASSWORD_FILE: is not set, and 0.0.0.0:9464 can be reached"),
        ({"bridge_http_bind": ""}, "BRIDGE_CONSOLE: is on, and BRIDGE_HTTP_BIND is empty"),
        ({"bridge_console_password_file": "/nowhere/at/all"}, "there is no file /nowhere/at/all"),
        ({"bridge_console_user_header": "X User"}, "BRIDGE_CONSOLE_USER_HEADER: must be the name of a header"),
        ({"bridge_console_proxies": "everybody"}, "BRIDGE_CONSOLE_PROXIES: 'everybody' is no address or network"),
    ],
)  # fmt: skip
def test_a_console_that_would_be_open_or_shut_to_everybody_is_refused(given: dict[str, Any], says: str) -> None:
    """Before anything starts, with what to do."""
    with pytest.raises(SettingsError) as caught:
        load(bridge_redis_url="redis://127.0.0.1:1/0", bridge_console=True, **given)
    assert any(says in fault for fault in caught.value.faults), caught.value.faults


def test_a_password_that_is_too_short_is_refused(has: Components, tmp_path: Path) -> None:
    """An empty file would let everybody in."""
    for text in ("", "\n", "short"):
        path = tmp_path / "short"
        path.write_text(text)
        with pytest.raises(SettingsError, match="fewer than 8"):
            app(has, password_file=path)
