"""No web page runs a handler on a developer's machine: not by a form, not by a script, not by DNS rebinding."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from bridge.emulator import Emulator

FORM = "application/x-www-form-urlencoded"
RUN = b'{"endpoint": "demo", "input": {"x": 1}}'


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": FORM},
        {"Content-Type": "text/plain"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {},
        {"Content-Type": "application/json", "Origin": "http://evil.example"},
        {"Content-Type": "application/json", "Origin": "null"},
        {"Content-Type": "application/json", "Origin": "http://127.0.0.1:1"},
        {"Content-Type": "application/json", "Host": "evil.example"},
        {"Content-Type": "application/json", "Host": "127.0.0.1.evil.example"},
        {"Content-Type": "application/json", "Host": "localhost.evil.example:8700"},
        {"Content-Type": "application/json", "Host": "[nonsense"},
        {"Content-Type": "application/json", "Host": "evil.example", "Origin": "http://evil.example"},
        {"Content-Type": "application/json", "Host": "evil.example@127.0.0.1.evil.example"},
    ],
)
def test_what_a_page_from_elsewhere_can_send_runs_nothing(call: Any, headers: dict[str, str]) -> None:
    """403 with the reason, and no job."""
    answer = httpx.post(f"{call.emulator.origin}/_emulator/run", content=RUN, headers=headers)
    assert answer.status_code == 403
    assert answer.json()["detail"]
    assert call.emulator.jobs("demo") == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.9.9.9", "[::1]", "demo.localhost"])
def test_the_page_itself_and_programs_on_this_machine_are_let_in(call: Any, host: str) -> None:
    """By any name that is loopback, with the page's own Origin or none."""
    port = call.emulator.origin.rpartition(":")[2]
    for own in ({"Origin": f"http://{host}:{port}"}, {}):
        headers = {"Host": f"{host}:{port}", "Content-Type": "application/json; charset=utf-8", **own}
        answer = httpx.post(f"{call.emulator.origin}/_emulator/run", content=RUN, headers=headers)
        assert answer.status_code == 200, answer.text
    assert len(call.emulator.jobs("demo")) == 2


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("GET", "_emulator/jobs"), ("DELETE", "_emulator/faults"), ("POST", "_emulator/advance")],
)
def test_a_name_that_leads_to_loopback_opens_no_route(call: Any, method: str, path: str) -> None:
    """DNS rebinding: neither reading nor changing."""
    headers = {"Host": "evil.example", "Content-Type": "application/json"}
    assert httpx.request(method, f"{call.emulator.origin}/{path}", headers=headers).status_code == 403


def test_a_page_from_elsewhere_cannot_use_the_default_key(call: Any) -> None:
    """After DNS rebinding it may send any header, and everybody knows `test-key`."""
    strange = {"Host": "evil.example:8700", "Origin": "http://evil.example:8700"}
    assert call.post("run", json={"input": {"x": 1}}, headers=strange).status_code == 403
    assert call.emulator.jobs("demo") == []
    near = {"Origin": "http://localhost:3000"}
    assert call.post("run", json={"input": {"x": 1}}, headers=near).status_code == 200
    assert call.post("run", json={"input": {"x": 1}}, headers={"Host": "host.docker.internal:8700"}).is_success


def test_an_address_of_ones_own_choice_lets_other_names_in_but_no_other_page() -> None:
    """`--host` says who can reach it; a container is called by its service's name."""
    with Emulator(["demo"], host="0.0.0.0") as emulator:  # noqa: S104 - what a container needs
        json = {"Content-Type": "application/json", "Host": "emulator:8700"}
        address = f"{emulator.origin}/_emulator/run"
        assert httpx.post(address, content=RUN, headers=json).status_code == 200
        assert httpx.post(address, content=RUN, headers=json | {"Origin": "http://emulator:8700"}).status_code == 200
        assert httpx.post(address, content=RUN, headers=json | {"Origin": "http://evil.example"}).status_code == 403
        assert httpx.post(address, content=RUN, headers={"Content-Type": FORM}).status_code == 403


def test_no_other_page_shows_this_one_in_a_frame(call: Any) -> None:
    """A click on it must be meant."""
    assert httpx.get(call.emulator.origin + "/").headers["x-frame-options"] == "DENY"
