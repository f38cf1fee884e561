"""Who may ask what of `/v1`: tokens by file, tenants, rights and rates; and where it will not open at all."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.api import all_events, api_house, submit
from tests.support.helpers import COMMAND_S, eventually
from tests.support.house import House
from tests.support.servers import RedisServer

TOKENS = {
    "acme": ("--tenant", "acme"),
    "other": ("--tenant", "other"),
    "reader": ("--tenant", "acme", "--right", "read"),
    "auditor": ("--right", "read_all"),
    "operator": ("--right", "control"),
    "slow": ("--tenant", "acme", "--rate", "0.5"),
    "clerk": ("--right", "submit", "--right", "read_all"),
    "foreman": ("--tenant", "acme", "--right", "read", "--right", "control"),
}


def bridge(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command, as it is typed."""
    command = [sys.executable, "-m", "bridge.cli", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=COMMAND_S, check=False, env={"PATH": "", **environment}
    )


def token(path: Path, name: str, *arguments: str) -> dict[str, str]:
    """Made by the command, its lines appended to the file; the header that carries it."""
    made = bridge("token", name, *arguments)
    assert made.returncode == 0, made.stderr
    with path.open("a") as file:
        file.write(made.stdout)
    secret = made.stderr.splitlines()[0]
    assert secret not in made.stdout
    return {"authorization": f"Bearer {secret}"}


class Doors:
    """A bridge with tokens, and a header for each."""

    def __init__(self, house: House, client: httpx.Client, path: Path, headers: dict[str, dict[str, str]]) -> None:
        self.house, self.client, self.path, self.headers = house, client, path, headers

    def get(self, who: str, path: str) -> httpx.Response:
        """Asked by one of them."""
        return self.client.get(path, headers=self.headers[who])

    def post(self, who: str, path: str) -> httpx.Response:
        """Asked by one of them."""
        return self.client.post(path, headers=self.headers[who])


@pytest.fixture(scope="module")
def doors(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """One worker for all of them."""
    folder = tmp_path_factory.mktemp("tokens")
    path = folder / "tokens.toml"
    headers = {name: token(path, name, *arguments) for name, arguments in TOKENS.items()}
    url = redis_server.start().fresh_url()
    with api_house(folder, url, api_tokens_file=str(path), id_memory_s="60", api_origins="*") as (house, client):
        yield Doors(house, client, path, headers)


def test_without_a_token_that_is_known_nothing_is_answered(doors: Doors) -> None:
    """401 with its challenge; what describes the door is for everybody."""
    for headers in ({}, {"authorization": "Bearer nobodys"}, {"authorization": "Basic dXNlcjpwYXNz"}):
        for told in (
            doors.client.get("/v1/requests/x", headers=headers),
            doors.client.post("/v1/requests", json={"input": {"a": 1}}, headers=headers),
        ):
            assert (told.status_code, told.json()["reason"]) == (401, "unauthorised")
            assert told.headers["www-authenticate"].startswith("Bearer")
    assert doors.client.get("/v1/openapi.json").json()["openapi"] == "3.1.0"
    assert doors.client.get("/v1/schemas/document").json()["title"] == "Document"
    assert doors.client.get("/v1/schemas/urn:bridge:schema:job-event:1").json()["title"] == "JobEvent"
    assert doors.client.get("/v1/schemas/nobodys").status_code == 404


def test_a_tenant_sees_its_own_requests_and_of_others_not_even_that_they_are(doors: Doors) -> None:
    """An id of another tenant's and one of nobody's are answered alike, in every way they can be named."""
    told = submit(doors.client, {"a": 1}, id="acmes", headers=doors.headers["acme"])
    assert told["metadata"] == {"tenant": "acme"}
    eventually(lambda: doors.get("reader", "/v1/requests/acmes").json()["completed"])
    assert all_events(doors.client, "acmes", **doors.headers["reader"])[-1].name == "completed"
    assert doors.get("auditor", "/v1/requests/acmes/output").json() == {"a": 1}
    for who in ("other", "operator"):
        for path in ("acmes", "acmes/output", "acmes/events"):
            foreign, unknown = doors.get(who, f"/v1/requests/{path}"), doors.get(who, f"/v1/requests/x{path}")
            assert foreign.status_code == unknown.status_code == (404 if who == "other" else 403)
            assert foreign.text == unknown.text.replace("xacmes", "acmes")
    for verb, code in (("cancel", 202), ("retry", 404)):
        foreign, unknown = (doors.post("other", f"/v1/requests/{name}/{verb}") for name in ("acmes", "xacmes"))
        assert foreign.status_code == unknown.status_code == code
        assert foreign.text == unknown.text.replace("xacmes", "acmes")
    assert doors.get("acme", "/v1/requests/acmes").json()["status"] == "COMPLETED"
    # The same request again, by another tenant: it is told no more than of any id that is taken.
    headers = {**doors.headers["other"], "idempotency-key": "acmes"}
    again = doors.client.post("/v1/requests", json={"input": {"a": 1}}, headers=headers)
    differs = doors.client.post("/v1/requests", json={"input": {"a": 2}}, headers=headers)
    assert (again.status_code, again.text) == (409, differs.text)


def test_what_is_only_remembered_is_its_tenants_too(doors: Doors) -> None:
    """The record is gone, its end is not."""
    submit(doors.client, {"a": 1}, id="remembered", headers=doors.headers["acme"])
    eventually(lambda: doors.house.phase("remembered") == "CLOSED")
    names = doors.house.ledger.names
    doors.house.client.delete(names.row("remembered"), names.long("remembered"), names.output("remembered"))
    told = doors.get("acme", "/v1/requests/remembered").json()
    assert (told["status"], told["retained"]) == ("COMPLETED", False)
    assert doors.get("other", "/v1/requests/remembered").status_code == 404
    assert doors.get("acme", "/v1/requests/remembered/output").json()["reason"] == "not_retained"
    assert all_events(doors.client, "remembered", **doors.headers["acme"])[-1].name == "completed"


def test_each_token_may_what_its_rights_say(doors: Doors) -> None:
    """And a tenant's token neither speaks for another tenant nor writes to queues."""
    body = {"input": {"a": 1}}

    def sent(who: str, **more: object) -> httpx.Response:
        return doors.client.post("/v1/requests", json=body | more, headers=doors.headers[who])

    for who in ("reader", "auditor", "operator"):
        assert sent(who).json()["reason"] == "forbidden"
    assert sent("acme", metadata={"tenant": "other"}).json()["field"] == "metadata.tenant"
    assert sent("acme", reply_to="billing").json()["field"] == "reply_to"
    told = submit(doors.client, {"mock_delay": 60}, headers=doors.headers["acme"])
    assert doors.post("reader", f"/v1/requests/{told['id']}/cancel").status_code == 403
    assert doors.post("operator", f"/v1/requests/{told['id']}/cancel").status_code in {200, 202}
    ended = eventually(lambda: [e for e in doors.house.events(told["id"]) if e["type"].endswith("cancelled")])
    assert "operator" in str(doors.house.events(told["id"])) + str(ended)
    log = (doors.house.directory / "worker-1.log").read_text()
    denied = [line for line in log.splitlines() if "api.denied" in line and "right" in line]
    assert any("reader" in line for line in denied), denied
    assert "***" not in "".join(denied)
    for path in ("pause", "resume", "purge"):
        assert doors.post("acme", f"/v1/endpoints/demo/{path}").status_code == 403
    assert doors.post("operator", "/v1/endpoints/demo/resume").status_code == 200
    assert doors.get("auditor", "/v1/endpoints/demo/health").status_code == 200
    assert doors.get("acme", "/v1/endpoints/demo/health").status_code == 403


def test_a_cancel_that_comes_before_its_request_is_kept_for_the_token_that_may_cancel_it(doors: Doors) -> None:
    """By a tenant's token for that tenant's request, by `control` for anybody's; another's runs as if nobody asked."""
    for who, sender, status in (
        ("acme", "acme", "CANCELLED"), ("operator", "acme", "CANCELLED"), ("foreman", "other", "CANCELLED"),
        ("other", "acme", "COMPLETED"), ("clerk", "acme", "COMPLETED"),
    ):  # fmt: skip
        name = f"early-{who}-{sender}"
        told = doors.post(who, f"/v1/requests/{name}/cancel")
        assert (told.status_code, told.json()["outcome"]) == (202, "unknown")
        submit(doors.client, {"a": 1}, id=name, headers=doors.headers[sender])
        eventually(lambda name=name: doors.get("auditor", f"/v1/requests/{name}").json()["completed"])  # type: ignore[misc]
        ended = doors.get("auditor", f"/v1/requests/{name}").json()
        assert (ended["status"], bool(ended["jobs"])) == (status, status == "COMPLETED"), name
    assert doors.post("acme", "/v1/requests/a%20b/cancel").status_code == 404


def test_who_may_read_a_request_and_not_change_it_is_told_the_right_that_is_missing(doors: Doors) -> None:
    """And who may change but not read it: 403, for it is no secret to them that it is there."""
    submit(doors.client, {"mock_error": "no"}, id="seen", headers=doors.headers["acme"])
    eventually(lambda: doors.get("acme", "/v1/requests/seen").json()["completed"])
    for who, verb, right in (
        ("reader", "cancel", "control or submit"), ("auditor", "retry", "control or submit"),
        ("clerk", "cancel", "the right control"), ("clerk", "retry", "the right control"),
    ):  # fmt: skip
        told = doors.post(who, f"/v1/requests/seen/{verb}")
        assert (told.status_code, told.json()["reason"]) == (403, "forbidden")
        assert right in told.json()["detail"], told.text
    submit(doors.client, {"a": 1}, id="unseen", headers=doors.headers["other"])
    for path in ("", "/output", "/events"):
        told = doors.get("foreman", f"/v1/requests/unseen{path}")
        assert (told.status_code, told.json()["reason"]) == (403, "forbidden")
        assert "read_all" in told.json()["detail"]
    assert doors.post("foreman", "/v1/requests/unseen/cancel").status_code in {200, 202}


def test_a_token_asks_no_faster_than_its_rate(doors: Doors) -> None:
    """429 with the time until the next one; others are not slowed."""
    first, second = (doors.get("slow", "/v1/requests/nobody") for _ in range(2))
    assert (first.status_code, second.status_code) == (404, 429)
    assert (second.json()["reason"], int(second.headers["retry-after"])) == ("rate", 2)
    assert doors.get("acme", "/v1/requests/nobody").status_code == 404


def test_a_page_of_an_allowed_origin_may_ask_after_its_preflight(doors: Doors) -> None:
    """What it needs to send and to read is named."""
    asks = {
        "origin": "https://shop.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,last-event-id,idempotency-key",
    }
    told = doors.client.options("/v1/requests", headers=asks)
    assert (told.status_code, told.headers["access-control-allow-origin"]) == (200, "*")
    told = doors.client.options("/v1/requests", headers={**asks, "access-control-request-headers": "x-strange"})
    assert (told.status_code, told.headers["content-type"]) == (403, "application/problem+json")
    assert (told.json()["reason"], told.json()["detail"]) == ("forbidden", "Disallowed CORS headers")
    got = doors.client.get("/v1/requests/nobody", headers={**doors.headers["acme"], "origin": "https://shop.example"})
    assert (got.status_code, got.headers["access-control-allow-origin"]) == (404, "*")
    assert "location" in got.headers["access-control-expose-headers"].lower()


def test_the_file_is_read_again_when_it_changes_and_a_slip_locks_nobody_out(doors: Doors) -> None:
    """A new token works within seconds, one that is taken out no longer does, and a broken file changes nothing."""
    before = doors.path.read_text()
    late = token(doors.path, "late", "--tenant", "acme")
    eventually(lambda: doors.client.get("/v1/requests/nobody", headers=late).status_code == 404)
    doors.path.write_text("[tokens.acme]\nsha256 = ")

    def told() -> bool:
        assert doors.client.get("/v1/requests/nobody", headers=late).status_code == 404
        return "api.tokens_unreadable" in (doors.house.directory / "worker-1.log").read_text()

    eventually(told)
    assert doors.client.get("/v1/requests/nobody", headers=late).status_code == 404
    doors.path.write_text(before)
    eventually(lambda: doors.client.get("/v1/requests/nobody", headers=late).status_code == 401, timeout=20)
    assert doors.get("acme", "/v1/requests/nobody").status_code == 404


def test_a_file_that_was_unreadable_is_read_within_a_second_of_its_mending(tmp_path: Path) -> None:
    """One without tokens is unreadable too: those read before stay in force."""
    from bridge.doors.http.api.tokens import LOOK_S, Tokens, hashed, row  # noqa: PLC0415

    def of(name: str) -> str:
        return row(name, hashed(name), "acme", ["read"], 10)

    path = tmp_path / "tokens.toml"
    path.write_text(of("a"))
    tokens = Tokens(path)
    for broken in ("", "# nobody", "nonsense"):
        path.write_text(broken)
        time.sleep(LOOK_S)  # it is looked at by now
        assert tokens.find("a") is not None, broken
        assert tokens.find("b") is None
    path.write_text(of("b"))
    time.sleep(LOOK_S)
    assert tokens.find("b") is not None
    assert tokens.find("a") is None


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"BRIDGE_HTTP_BIND": "0.0.0.0:0"}, "BRIDGE_API_TOKENS_FILE: is not set, and 0.0.0.0:0 can be reached"),
        ({"BRIDGE_HTTP_BIND": ":0"}, "BRIDGE_API_TOKENS_FILE: is not set"),
        ({"BRIDGE_HTTP_BIND": ""}, "BRIDGE_API: is on, and BRIDGE_HTTP_BIND is empty"),
        ({"BRIDGE_API_TOKENS_FILE": "/nowhere"}, "BRIDGE_API_TOKENS_FILE: there is no file /nowhere"),
        ({"BRIDGE_API_ORIGINS": "*"}, "BRIDGE_API_ORIGINS: *"),
        ({"BRIDGE_API_ORIGINS": "shop.example/x"}, "BRIDGE_API_ORIGINS: 'shop.example/x' is no origin"),
    ],
)
def test_it_opens_to_nobody_who_could_not_be_told_apart(settings: dict[str, str], says: str) -> None:
    """The process does not start, and says what to do."""
    told = bridge("check", BRIDGE_API="on", CELERY_BROKER_URL="redis://127.0.0.1:1/0", **settings)
    assert told.returncode == 11
    assert says in told.stderr


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("nonsense", "is no TOML"),
        ("", "has no tokens"),
        ("[tokens]", "has no tokens"),
        ('[tokens.a]\nsha256 = "x"\nrights = ["submit"]', "tokens.a.sha256: must match"),
        (f'[tokens.a]\nsha256 = "{"0" * 64}"\nrights = ["submit"]', "tenant: is required"),
        (f'[tokens.a]\nsha256 = "{"0" * 64}"\nrights = ["all"]', "tokens.a.rights.0: must be"),
        (
            "".join(f'[tokens.{n}]\nsha256 = "{"0" * 64}"\nrights = ["control"]\n' for n in "ab"),
            "is that of tokens.a too",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_told_with_the_line_at_fault(lines: str, says: str, tmp_path: Path) -> None:
    """At the start, as a setting."""
    from bridge.doors.http.api.tokens import Tokens  # noqa: PLC0415
    from bridge.errors import SettingsError  # noqa: PLC0415

    path = tmp_path / "tokens.toml"
    path.write_text(lines)
    with pytest.raises(SettingsError, match="BRIDGE_API_TOKENS_FILE") as caught:
        Tokens(path)
    assert says in str(caught.value)
