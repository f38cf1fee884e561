"""docs/openapi.json against a running bridge: what it promises is answered, by requests that no person would make."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
from hypothesis import HealthCheck, Phase

from bridge.doors.http.api.description import openapi
from bridge.job.contract.compatibility import of_openapi
from tests.support.api import api_house, submit
from tests.support.helpers import eventually
from tests.support.house import House
from tests.support.servers import RedisServer

DOCS = Path(__file__).parents[2] / "docs"
#: As it is committed; schemathesis is loaded by the tests that use it: either takes half a second of each test process.
DOCUMENT = json.loads((DOCS / "openapi.json").read_text())
OPERATIONS = [
    (path, method, mode)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
    for mode in ("positive", "negative")
    if operation["parameters"] or mode == "positive"  # else there is nothing that could be said wrongly
]
EXAMPLES = 12


@pytest.fixture(scope="module")
def api(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, httpx.Client]]:
    """One worker for all of them."""
    url = redis_server.start().fresh_url()
    with api_house(tmp_path_factory.mktemp("openapi"), url, endpoints="demo", inline_limit="1024") as found:
        yield found


def schema() -> Any:
    """As schemathesis reads it."""
    import schemathesis  # noqa: PLC0415  (heavy)

    return schemathesis.openapi.from_dict(DOCUMENT)


def promises() -> list[Any]:
    """Not that all valid data is taken: an endpoint of any name is valid, and nobody knows it."""
    from schemathesis.checks import not_a_server_error  # noqa: PLC0415  (heavy)
    from schemathesis.specs.openapi import checks  # noqa: PLC0415

    return [
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_headers_conformance,
        checks.response_schema_conformance,
        checks.negative_data_rejection,
    ]


@pytest.mark.locked
def test_the_committed_document_is_the_code_s_and_is_served(api: tuple[House, httpx.Client]) -> None:
    """And every path of it is one that the door has."""
    assert openapi.document() == DOCUMENT
    assert api[1].get("/v1/openapi.json").json() == DOCUMENT


@pytest.mark.parametrize(("path", "method", "mode"), OPERATIONS)
def test_whatever_is_asked_is_answered_as_promised(
    api: tuple[House, httpx.Client], path: str, method: str, mode: str
) -> None:
    """Made up by the schema, or against it."""
    from schemathesis import GenerationMode  # noqa: PLC0415  (heavy)

    operation, checks = schema()[path][method.upper()], promises()

    @hypothesis.settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=GenerationMode(mode)))
    def asked(case: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case.call_and_validate(base_url=str(api[1].base_url), checks=checks, timeout=60)

    asked()


def test_the_answers_about_real_requests_are_as_promised(api: tuple[House, httpx.Client]) -> None:
    """Which nobody finds by making up ids."""
    client, known, checks = api[1], schema(), promises()[1:-1]

    def told(path: str, method: str, response: httpx.Response, code: int) -> None:
        assert response.status_code == code, response.text
        names = {"id": "real", "endpoint": "demo"}
        named = {name: value for name, value in names.items() if f"{{{name}}}" in path}
        known[path][method].Case(path_parameters=named).validate_response(response, checks=checks)

    of_request, of_endpoint = "/v1/requests/{id}", "/v1/endpoints/{endpoint}"
    body = {"id": "real", "input": {"text": "x" * 2_000}, "metadata": {"a": 1}, "policy": {"ttl": 60_000}}
    told("/v1/requests", "POST", client.post("/v1/requests", json=body), 202)
    eventually(lambda: client.get("/v1/requests/real").json()["completed"])
    told("/v1/requests", "POST", client.post("/v1/requests", json=body), 200)
    told("/v1/requests", "POST", client.post("/v1/requests", json=body | {"input": {"a": 1}}), 409)
    told(of_request, "GET", client.get("/v1/requests/real"), 200)
    output, tag = f"{of_request}/output", client.get("/v1/requests/real/output").headers["etag"]
    told(output, "GET", client.get("/v1/requests/real/output"), 200)
    for name, value, code in (("range", "bytes=0-5", 206), ("range", "bytes=99999-", 416), ("if-none-match", tag, 304)):
        told(output, "GET", client.get("/v1/requests/real/output", headers={name: value}), code)
    told(f"{of_request}/events", "GET", client.get("/v1/requests/real/events"), 200)
    told(f"{of_request}/cancel", "POST", client.post("/v1/requests/real/cancel"), 200)
    told(f"{of_request}/retry", "POST", client.post("/v1/requests/real/retry"), 409)
    submit(client, {"mock_delay": 60}, id="runs")
    eventually(lambda: client.get("/v1/requests/runs").json()["started"])
    told(output, "GET", client.get("/v1/requests/runs/output"), 409)
    told(f"{of_request}/cancel", "POST", client.post("/v1/requests/runs/cancel"), 202)
    told(f"{of_endpoint}/health", "GET", client.get("/v1/endpoints/demo/health"), 200)
    told(f"{of_endpoint}/pause", "POST", client.post("/v1/endpoints/demo/pause", json={"reason": "x"}), 200)
    told(f"{of_endpoint}/resume", "POST", client.post("/v1/endpoints/demo/resume"), 200)
    told(f"{of_endpoint}/purge", "POST", client.post("/v1/endpoints/demo/purge"), 200)


# Only additions


def test_the_released_document_is_still_kept() -> None:
    """Nobody who was generated from it is broken."""
    released = json.loads((DOCS / "released" / "openapi.json").read_text())
    assert of_openapi(released, DOCUMENT) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d["paths"].pop("/v1/requests"), "POST /v1/requests: removed or renamed"),
        (lambda d: d["paths"]["/v1/requests"]["post"].update(operationId="send"), "operationId: submitRequest became"),
        (lambda d: d["paths"]["/v1/requests/{id}"]["get"]["responses"].pop("404"), "answer 404: removed"),
        (lambda d: d["paths"]["/v1/requests/{id}"]["get"]["parameters"].pop(), "parameter refresh: removed"),
        (
            lambda d: d["paths"]["/v1/requests/{id}"]["get"]["parameters"][1].update(required=True),
            "parameter refresh: must be given now",
        ),
        (lambda d: d["components"]["schemas"]["Document"]["properties"].pop("status"), "status: removed or renamed"),
        (lambda d: d["components"]["schemas"]["JsonRequest"]["required"].append("endpoint"), "endpoint: must be given"),
    ],
)
def test_what_would_break_a_generated_client_is_found(change: Callable[[Any], object], says: str) -> None:
    """Removed, renamed, retyped or demanded, in paths as in models; what is added breaks nobody."""
    changed = copy.deepcopy(DOCUMENT)
    change(changed)
    assert [what for what in of_openapi(DOCUMENT, changed) if says in what]
    added = copy.deepcopy(DOCUMENT)
    added["paths"]["/v1/more"] = added["paths"]["/v1/openapi.json"]
    added["paths"]["/v1/requests"]["post"]["responses"]["418"] = {"description": "more"}
    assert of_openapi(DOCUMENT, added) == []
