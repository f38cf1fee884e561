"""The Batch API (beta): `/v2/<endpoint>/batch...`. Source: "batch jobs" of RunPod's docs.

That page shows the answers of create, of the summary and of the requests; the others answer as create does, which is a
guess. So are the codes of what cannot be done: 400 with the reason in `detail`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge.emulator.api.operations import Query, wrong_request
from bridge.emulator.http.answers import (
    NOT_ALLOWED,
    NOT_FOUND,
    Answer,
    bad_request,
    decode,
    document,
    problem,
    too_large,
)
from bridge.emulator.model.batches import DRAFT, Batch
from bridge.emulator.model.endpoint import Endpoint

BATCH_NOT_FOUND = problem(404, "Not Found", "batch not found")
REQUEST_NOT_FOUND = problem(404, "Not Found", "request not found")

_ROUTES: Mapping[tuple[str, str], str] = {
    ("POST", ""): "batch-create",
    ("GET", ""): "batch-list",
    ("GET", "id"): "batch-status",
    ("PUT", "id"): "batch-update",
    ("POST", "id/requests"): "batch-add",
    ("GET", "id/requests"): "batch-requests",
    ("DELETE", "id/requests/id"): "batch-remove",
    ("POST", "id/finalize"): "batch-finalize",
    ("POST", "id/cancel"): "batch-cancel",
}
_SHAPES = frozenset(shape for _, shape in _ROUTES)


def operation(method: str, rest: str) -> str | None:
    """Return the operation that `/batch/<rest>` asks for; None when there is none."""
    return _ROUTES.get((method, _shape(rest)))


def _shape(rest: str) -> str:
    match rest.split("/"):
        case [""]:
            return ""
        case [_]:
            return "id"
        case [_, what]:
            return f"id/{what}"
        case [_, "requests", _]:
            return "id/requests/id"
        case _:
            return "?"


def answer(endpoint: Endpoint, op: str, rest: str, body: bytes, query: Query) -> Answer:
    """Carry out one operation."""
    if not endpoint.config.batch:
        return NOT_FOUND
    match op:
        case "batch":
            return NOT_ALLOWED if _shape(rest) in _SHAPES else NOT_FOUND
        case "batch-list":
            return document(endpoint.batches.listed())
        case "batch-create":
            return _create(endpoint, body)
        case _:
            batch_id, _, further = rest.partition("/")
            batch = endpoint.batches.known.get(batch_id)
            return BATCH_NOT_FOUND if batch is None else _of_a_batch(endpoint, batch, op, (further, body, query))


def _create(endpoint: Endpoint, body: bytes) -> Answer:
    requests = _requests(endpoint, body, bare=True)
    if isinstance(requests, Answer):
        return requests
    made = endpoint.batches.create(requests)
    return _refused(made) if isinstance(made, str) else _brief(made)


def _of_a_batch(endpoint: Endpoint, batch: Batch, op: str, given: tuple[str, bytes, Query]) -> Answer:
    further, body, query = given
    match op:
        case "batch-status":
            return document(endpoint.batches.summary(batch))
        case "batch-requests":
            return _page(endpoint, batch, query)
        case "batch-cancel":
            endpoint.batches.cancel(batch)
            return _brief(batch)
        case "batch-update":
            return _update(batch, body)
        case _ if batch.status != DRAFT:
            return _refused(f"batch is {batch.status}; only a DRAFT can be changed")
        case _:
            return _of_a_draft(endpoint, batch, op, further, body)


def _of_a_draft(endpoint: Endpoint, batch: Batch, op: str, further: str, body: bytes) -> Answer:
    if op == "batch-add":
        requests = _requests(endpoint, body, bare=False)
        if isinstance(requests, Answer):
            return requests
        why = endpoint.batches.add(batch, requests)
        return _brief(batch) if why is None else _refused(why)
    if op == "batch-remove":
        found = batch.children.pop(further.partition("/")[2], None)
        return REQUEST_NOT_FOUND if found is None else _brief(batch)
    if not batch.children:
        return _refused("a batch without requests cannot be finalized")
    endpoint.batches.finalize(batch)
    return _brief(batch)


def _requests(endpoint: Endpoint, body: bytes, *, bare: bool) -> list[dict[str, Any]] | Answer:
    """Return the requests of a body, each checked as /run checks its own: an array, or one below `requests`."""
    if len(body) > endpoint.config.run_body:
        return too_large(endpoint.config.run_body)
    try:
        given = decode(body)
    except ValueError:
        return bad_request("body: invalid JSON")
    if not bare:
        given = given.get("requests") if isinstance(given, dict) else None
    if not isinstance(given, list):
        return bad_request("body: must be a JSON array" if bare else "body: requests: must be a JSON array")
    for number, request in enumerate(given):
        if wrong := wrong_request(endpoint, request):
            return bad_request(f"body: requests[{number}]: {wrong}")
    return given


def _page(endpoint: Endpoint, batch: Batch, query: Query) -> Answer:
    config = endpoint.config
    asked = {}
    for name, otherwise, least in (("offset", 0, 0), ("limit", config.batch_page, 1)):
        try:
            asked[name] = int(query.get(name, otherwise))
        except ValueError:
            return bad_request(f"query: {name}: must be a number")
        if asked[name] < least:
            return bad_request(f"query: {name}: must be at least {least}")
    return document(endpoint.batches.page(batch, asked["offset"], min(asked["limit"], config.batch_page_most)))


def _update(batch: Batch, body: bytes) -> Answer:
    try:
        given = decode(body)
    except ValueError:
        return bad_request("body: invalid JSON")
    name = given.get("name") if isinstance(given, dict) else None
    if not isinstance(name, str):
        return bad_request("body: name: must be a string")
    batch.name = name
    return _brief(batch)


def _brief(batch: Batch) -> Answer:
    return document({"id": batch.id, "status": batch.status})._replace(job_id=batch.id)


def _refused(why: str) -> Answer:
    return problem(400, "Bad Request", f"bad request: {why}")
