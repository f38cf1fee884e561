"""The OpenAPI 3.1 document of `/v1`, made from the models (docs/openapi.json)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from bridge import __version__
from bridge.doors.http.api.description.models import (
    ByBody,
    CancelAnswer,
    HealthAnswer,
    PauseAnswer,
    ProblemDocument,
    PurgeAnswer,
    PurgeBody,
    ReasonBody,
)
from bridge.doors.http.problem import CONTENT_TYPE, REASONS
from bridge.job.contract.documents import Document
from bridge.job.contract.events import JobEvent
from bridge.job.contract.models import JsonRequest

_MODELS: tuple[type[BaseModel], ...] = (
    JsonRequest, Document, JobEvent, ProblemDocument, CancelAnswer, PauseAnswer, PurgeAnswer, HealthAnswer, ByBody,
    ReasonBody, PurgeBody,
)  # fmt: skip
#: What any route may answer that needs a token and the ledger.
_ALWAYS = ("unauthorised", "forbidden", "rate", "head_too_large", "failed", "ledger_unavailable")


def _in_path(name: str, pattern: str, **more: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, **more, "schema": {"type": "string", "pattern": pattern}}


_ID = _in_path("id", r"^[A-Za-z0-9._:\-]{1,200}$", description="the request's id")
_ENDPOINT = _in_path(
    "endpoint", r"^[A-Za-z0-9_\-]{1,64}$", description="an endpoint's name, as BRIDGE_ENDPOINTS has it"
)
_NAME = _in_path("name", r"^[a-z\-]{1,40}(\.json)?$")
#: One event of the stream, in the fields that SSE has.
_SSE = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "id": {"type": "string", "description": "what Last-Event-ID is told; of the document it has none"},
        "event": {"type": "string", "description": "the last word of the event's type; `document` where it stands"},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/JobEvent"},
        },
    },
}


def document() -> dict[str, Any]:
    """The whole document, as JSON."""
    _, found = models_json_schema(
        [(model, "validation") for model in _MODELS], ref_template="#/components/schemas/{model}"
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Runpod bridge",
            "version": __version__,
            "description": "Submit, follow and cancel jobs on RunPod Serverless. docs/http-api.md is the quickstart.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/", "description": "BRIDGE_HTTP_BIND"}],
        "security": [{"token": []}, {}],
        "paths": _paths(),
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "needed where BRIDGE_API_TOKENS_FILE is set; made by `bridge token NAME`",
                }
            },
            "schemas": found["$defs"],
        },
    }


def _paths() -> dict[str, Any]:
    of_request, of_endpoint = "/v1/requests/{id}", "/v1/endpoints/{endpoint}"
    return {
        "/v1/requests": {"post": _submit()},
        of_request: {"get": _status()},
        f"{of_request}/output": {"get": _output()},
        f"{of_request}/events": {"get": _events()},
        f"{of_request}/cancel": {
            "post": _operation(
                "cancelRequest", "Cancel in whatever phase it is; a running job is cancelled at RunPod.", _ID,
                {200: ("It has ended.", CancelAnswer), 202: ("It is being cancelled, or not known.", CancelAnswer)},
                ("malformed", "unknown", "too_large", "unsupported_media_type", "rejected"), body=ByBody,
            )
        },
        f"{of_request}/retry": {
            "post": _operation(
                "retryRequest", "Another round of a FAILED or TIMED_OUT request.", _ID,
                {202: ("It runs again.", Document)},
                ("malformed", "unknown", "not_retryable", "too_large", "unsupported_media_type", "rejected", "busy"),
                body=ByBody,
            )
        },
        f"{of_endpoint}/health": {
            "get": _operation(
                "endpointHealth", "RunPod's counters and the bridge's own, with a verdict.", _ENDPOINT,
                {200: ("How it is.", HealthAnswer)}, ("unknown", "rejected", "runpod", "busy"),
            )
        },
        f"{of_endpoint}/pause": {"post": _pause("pauseEndpoint", "No submit leaves for it in any process.")},
        f"{of_endpoint}/resume": {"post": _pause("resumeEndpoint", "Submits leave again.")},
        f"{of_endpoint}/purge": {
            "post": _operation(
                "purgeEndpoint", "Clear its queue at RunPod, for everybody who uses it; running jobs go on.", _ENDPOINT,
                {200: ("What was removed.", PurgeAnswer)},
                ("malformed", "unknown", "too_large", "unsupported_media_type", "rejected", "runpod", "busy"),
                body=PurgeBody,
            )
        },
        "/v1/openapi.json": {"get": _described("openapi", "This document.", "application/json", ())},
        "/v1/schemas/{name}": {
            "get": _described(
                "schema", "The JSON Schema of a document: request, document, event and others.",
                "application/schema+json",
                (_NAME,),
            )
        },
    }  # fmt: skip


def _submit() -> dict[str, Any]:
    location = {"location": _header("where its status is")}
    told = _operation(
        "submitRequest",
        "Submit a request. 202 means that the ledger holds it; the same id again is the same request.",
        _header_parameter("Idempotency-Key", "the request's id, where the body names none", _ID["schema"]),
        {
            200: ("It was sent before, and has ended.", Document),
            202: ("The ledger holds it.", Document),
        },
        ("malformed", "unknown_kind", "id_conflict", "too_large", "unsupported_media_type", "rejected", "full", "busy"),
        body=JsonRequest,
    )
    told["requestBody"]["required"] = True
    for code in ("200", "202"):
        told["responses"][code]["headers"] = location
    return told


def _status() -> dict[str, Any]:
    told = _operation(
        "requestStatus", "A request's document.", _ID, {200: ("As it is now.", Document)}, ("unknown", "rejected")
    )
    told["parameters"].append(
        {
            "name": "refresh",
            "in": "query",
            "description": "have RunPod asked now",
            "schema": {"enum": ["true", "false"]},
        }
    )
    return told


def _output() -> dict[str, Any]:
    told = _operation(
        "requestOutput",
        "The output whole, whatever its size.",
        _ID,
        {200: ("All of it, as the job gave it.", None), 206: ("A part of it.", None)},
        ("unknown", "no_output", "not_ended", "not_retained", "changed", "range", "output_unavailable"),
    )
    told["parameters"] += [
        _header_parameter("Range", "bytes=FIRST-LAST", {"type": "string"}),
        _header_parameter("If-None-Match", "an ETag", {"type": "string"}),
    ]
    told["responses"]["304"] = {"description": "It is the one that you have."}
    signed = "The object store has it: BRIDGE_API_SIGNED_S."
    told["responses"]["307"] = {"description": signed, "headers": {"location": _header("where, for a while")}}
    headers = {name: _header(says) for name, says in (("etag", "which output it is"), ("accept-ranges", "bytes"))}
    for code in ("200", "206"):
        told["responses"][code] |= {"headers": headers, "content": {"application/json": {}}}
    return told


def _events() -> dict[str, Any]:
    told = _operation(
        "requestEvents",
        "Its events as they are made, to its end: each `data` is one JobEvent.",
        _ID,
        {200: ("Server-sent events.", None), 204: ("It has ended, and `Last-Event-ID` is its end.", None)},
        ("unknown", "rejected", "busy"),
    )
    told["parameters"].append(
        _header_parameter(
            "Last-Event-ID", "the id of the last one heard", {"type": "string", "pattern": r"^\d{1,15}(\.\d{1,15})?$"}
        )
    )
    told["responses"]["200"]["content"] = {"text/event-stream": {"schema": _SSE}}
    return told


def _pause(name: str, says: str) -> dict[str, Any]:
    reasons = ("malformed", "unknown", "too_large", "unsupported_media_type", "rejected")
    return _operation(name, says, _ENDPOINT, {200: ("Done.", PauseAnswer)}, reasons, body=ReasonBody)


def _described(name: str, says: str, kind: str, parameters: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    told: dict[str, Any] = {
        "operationId": name,
        "summary": says,
        "security": [],
        "parameters": list(parameters),
        "responses": {"200": {"description": says, "content": {kind: {"schema": {"type": "object"}}}}},
    }
    reasons = ["failed", *(["unknown"] if parameters else [])]
    told["responses"] |= _problems(reasons)
    return told


def _operation(
    name: str,
    says: str,
    parameter: Mapping[str, Any],
    answers: Mapping[int, tuple[str, type[BaseModel] | None]],
    reasons: Sequence[str],
    *,
    body: type[BaseModel] | None = None,
) -> dict[str, Any]:
    told: dict[str, Any] = {"operationId": name, "summary": says, "parameters": [dict(parameter)], "responses": {}}
    if body is not None:
        told["requestBody"] = {"content": {"application/json": {"schema": _ref(body)}}}
    for code, (description, model) in answers.items():
        content = {"application/json": {"schema": _ref(model)}} if model is not None else {}
        told["responses"][str(code)] = {"description": description, **({"content": content} if content else {})}
    told["responses"] |= _problems((*_ALWAYS, *reasons))
    return told


def _problems(reasons: Sequence[str]) -> dict[str, Any]:
    """By status: which `reason`s there are."""
    by_status: dict[int, list[str]] = {}
    for reason in reasons:
        by_status.setdefault(REASONS[reason][0], []).append(reason)
    return {
        str(status): {
            "description": "; ".join(f"`{reason}`: {REASONS[reason][1]}" for reason in sorted(named)),
            "content": {CONTENT_TYPE: {"schema": _ref(ProblemDocument)}},
        }
        for status, named in sorted(by_status.items())
    }


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _header(says: str) -> dict[str, Any]:
    return {"description": says, "schema": {"type": "string"}}


def _header_parameter(name: str, says: str, schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": says, "schema": schema}
