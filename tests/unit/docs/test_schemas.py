"""The published models: current, held to additions, and true of what the code really writes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from referencing import Registry, Resource

from bridge.job.change import Change, Rules
from bridge.job.contract import asyncapi
from bridge.job.contract.compatibility import breaks
from bridge.job.contract.models import DIALECT, INCOMING, schema_named, schemas
from bridge.job.document import Held, dead_event, endpoint_event, remembered
from bridge.job.enums import EventName, Phase, Wish
from bridge.job.observation import Observation
from bridge.job.record import Long, Record, altered
from bridge.job.request import parse_run
from bridge.job.transitions import Table

DOCS = Path(__file__).parents[3] / "docs"
#: As they are committed, which takes a second less in each test process than to make them: the first test compares.
ASYNC = json.loads((DOCS / "asyncapi.json").read_text())
EVENT, REQUEST, DOCUMENT = (
    json.loads((DOCS / "schema" / f"{name}.json").read_text()) for name in ("event", "request", "document")
)


@pytest.mark.locked
def test_the_committed_documents_are_the_code_s() -> None:
    """And what was released is kept: `bridge schema --check` compares with it."""
    for name, schema in schemas().items():
        Draft202012Validator.check_schema(schema)
        assert json.loads((DOCS / "schema" / f"{name}.json").read_text()) == schema
        released = json.loads((DOCS / "schema" / "released" / f"{name}.json").read_text())
        assert breaks(released, schema, incoming=name in INCOMING) == []
    assert asyncapi.document() == ASYNC


# Only additions

FAILED = "FailedEvent"


def fields(schema: dict[str, Any]) -> dict[str, Any]:
    """Those of one of the events."""
    found: dict[str, Any] = schema["$defs"][FAILED]["properties"]
    return found


def changed(schema: dict[str, Any], change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """A copy with one change."""
    made = copy.deepcopy(schema)
    change(made)
    return made


@pytest.mark.parametrize(
    ("schema", "change", "where"),
    [
        (EVENT, lambda s: fields(s).pop("sequence"), "sequence: removed or renamed"),
        (EVENT, lambda s: fields(s).update(seq=fields(s).pop("sequence")), "sequence: removed or renamed"),
        (EVENT, lambda s: fields(s).update(sequence={"type": "integer"}), "sequence: retyped"),
        (EVENT, lambda s: s["$defs"][FAILED]["required"].remove("subject"), "subject: is not always there"),
        (EVENT, lambda s: fields(s)["specversion"].update(const="2.0"), "specversion"),
        (EVENT, lambda s: fields(s)["sequence"].update(pattern="x"), "sequence: pattern"),
        (DOCUMENT, lambda s: s["properties"]["job_id"].update(anyOf=[{"type": "integer"}]), "job_id"),
        (DOCUMENT, lambda s: s["$defs"]["OutputReference"]["properties"].pop("sha256"), "output_ref.sha256: removed"),
        (DOCUMENT, lambda s: s["$defs"]["JobOfRequest"]["properties"].pop("attempt"), "jobs[].attempt: removed"),
        (REQUEST, lambda s: s["properties"].pop("metadata"), "metadata: removed or renamed"),
        (REQUEST, lambda s: s["required"].append("endpoint"), "endpoint: must be given now"),
        (REQUEST, lambda s: s["properties"]["priority"].update(maximum=5), "priority: maximum"),
        (REQUEST, lambda s: s["properties"]["retries"].update(type="string"), "retries: retyped"),
        (REQUEST, lambda s: s["properties"]["result"]["enum"].remove("document"), "result: removed: document"),
        (REQUEST, lambda s: s["$defs"]["Policy"]["properties"].pop("ttl"), "policy.ttl: removed"),
    ],
)  # fmt: skip
def test_a_change_that_breaks_somebody_is_found(
    schema: dict[str, Any], change: Callable[[dict[str, Any]], object], where: str
) -> None:
    """Removed, renamed, retyped, demanded, or bounded more tightly; at any depth."""
    found = breaks(schema, changed(schema, change), incoming=schema is REQUEST)
    assert [fault for fault in found if fault.startswith(where)], found


@pytest.mark.parametrize(
    ("schema", "change"),
    [
        (EVENT, lambda s: fields(s).update(new={"type": "string"})),
        (EVENT, lambda s: (fields(s).update(new={"type": "string"}), s["$defs"][FAILED]["required"].append("new"))),
        (DOCUMENT, lambda s: s["$defs"]["Reason"]["enum"].append("more")),
        (REQUEST, lambda s: s["properties"].update(new={"type": "string", "default": ""})),
        (REQUEST, lambda s: s["properties"]["priority"].update(maximum=20)),
        (REQUEST, lambda s: s["required"].remove("input")),
    ],
)
def test_an_addition_is_none(schema: dict[str, Any], change: Callable[[dict[str, Any]], object]) -> None:
    """New fields, new words, wider bounds."""
    assert breaks(schema, changed(schema, change), incoming=schema is REQUEST) == []


# AsyncAPI

REGISTRY: Registry[Any] = Registry().with_resource(
    "urn:async", Resource.from_contents({"$schema": "https://json-schema.org/draft/2020-12/schema", **ASYNC})
)


def check(message: str, document: object) -> None:
    """Raises ValidationError unless the document is what its message says."""
    payload = json.loads(json.dumps(ASYNC["components"]["messages"][message]["payload"]).replace('"#/', '"urn:async#/'))
    Draft202012Validator(payload, registry=REGISTRY).validate(document)


def test_every_channel_and_event_is_named() -> None:
    """AMQP and Redis, in and out."""
    assert {name.value for name in EventName} <= ASYNC["components"]["messages"].keys()
    addresses = {channel["address"] for channel in ASYNC["channels"].values()}
    amqp = {"job.submit.{endpoint}", "job.{event}.{endpoint}", "bridge.commands", "bridge.results", "bridge.dead"}
    redis = {"bridge:requests", "bridge:events", "bridge:reply:{reply_to}", "bridge:dead", "bridge:chunks:{id}"}
    assert amqp | redis | {"{reply_to}"} <= addresses
    used = {ref["$ref"] for channel in ASYNC["channels"].values() for ref in channel["messages"].values()}
    assert used == {f"#/components/messages/{name}" for name in ASYNC["components"]["messages"]}


def test_what_the_code_writes_is_what_the_messages_say() -> None:
    """A request from its acceptance over progress, chunks and a retry to its end, and others that ended early."""
    table = Table(Rules(inline_limit=1024))
    seen: set[str] = set()

    def told(change: Change) -> Held:
        for event in change.events:
            check(event.name.value, json.loads(event.body))
            seen.add(event.name.value)
        return change.after

    def begun(**more: Any) -> Held:
        record = Record(id="r1", phase=Phase.ACCEPTED, endpoint="demo", door="amqp", fingerprint="f", **more)
        return told(table.accept(Held(record, {Long.INPUT: "{}", Long.METADATA: '{"a":1}'}), 1))

    def tracked(**more: Any) -> Held:
        sending = table.sending(_leased(begun(**more)), 2, "lease", endpoint_id="e", base_url="u").after
        return told(table.submitted(sending, 3, "j1", "IN_QUEUE", poll_ms=1))

    held = tracked(stream=1, retries_left=1)
    held = told(table.observed(held, 4, Observation("j1", "IN_PROGRESS", 1, output='{"p":1}'), poll_ms=1))
    held = Held(altered(held.record, reading="reader"), held.long)
    chunks = [("x", None), ("y" * 2_000, {"m": 1})]
    held = told(table.stream_read(held, 5, chunks, again_ms=None, lost=False, reader="reader"))
    held = told(table.observed(held, 6, Observation("j1", "FAILED", 1, error="no"), poll_ms=1))
    table_end = table.observed(
        tracked(), 6, Observation("j1", "COMPLETED", 1, output='"' + "z" * 5_000 + '"'), poll_ms=1
    )
    told(table_end)
    told(table.observed(tracked(), 6, Observation("j1", "FAILED", 1, error='{"error_message":"m"}'), poll_ms=1))
    told(table.observed(tracked(), 6, Observation("j1", "TIMED_OUT", 1), poll_ms=1))
    told(table.wish(begun(), 2, Wish.CANCEL, by="me", door="cli"))
    told(table.refused(begun(), 2, "input: no"))
    assert {"accepted", "submitted", "queued", "started", "progress", "chunk", "retried"} <= seen
    assert {"completed", "failed", "timed_out", "cancelled", "rejected"} <= seen
    for status, reason in (("COMPLETED", ""), ("FAILED", "handler_error"), ("CANCELLED", "cancelled")):
        Draft202012Validator(DOCUMENT).validate(remembered("r1", {"status": status, "reason": reason, "ep": "demo"}))
    check("purged", json.loads(endpoint_event(EventName.PURGED, {"removed": 1}, endpoint="demo", sequence=1, time="t")))
    letter: dict[str, Any] = dict.fromkeys(("source", "request_id", "encoding", "original"))
    letter |= {"reason": "malformed", "time": "t", "door": "amqp", "detail": "d", "size": 1, "sha256": "f" * 64}
    letter |= {"truncated": False, "headers": {}}
    check("deadLetter", json.loads(dead_event(letter)))


def _leased(held: Held) -> Held:
    values = {**held.record.__dict__, "lease": "lease", "lease_until": 10**9}
    return Held(Record(**values), held.long)


def test_what_the_door_takes_is_what_the_schema_takes() -> None:
    """A request that the model accepts is valid by the published schema, and the other way round for the gross ones."""
    good = {"input": {"a": 1}, "policy": {"ttl": 10_000}, "retries": 1, "reply_on": ["end"], "metadata": {"k": "v"}}
    parse_run(good)
    check("request", good)
    validator = Draft202012Validator(REQUEST)
    some: dict[str, Any] = {"input": {"a": 1}}
    bad: dict[str, Any]
    for bad in ({"input": []}, {**some, "priority": 12}, {**some, "nonsense": 1}, {}):
        assert not validator.is_valid(bad)


def test_what_may_be_any_value_has_no_word_beside_it() -> None:
    """Else json2ts takes it for an object, and no string, number or list can be had of an output."""
    for name, schema in schemas().items():
        for model in (schema, *schema.get("$defs", {}).values()):
            for field, said in model.get("properties", {}).items():
                assert said == {} or said.keys() & {"type", "anyOf", "$ref", "const", "enum"}, (name, field, said)
        if name == "document":
            assert [schema["properties"][field] for field in ("output", "error", "progress")] == [{}, {}, {}]


def test_no_schema_has_a_word_that_json_schema_does_not_know() -> None:
    """Ajv, as it comes, refuses the whole schema for one: `discriminator` was such a word."""
    words = {"$schema", "$id", "$ref", "$defs", "title", "description", "default", "type", "const", "enum", "format"}
    words |= {"properties", "required", "additionalProperties", "items", "oneOf", "anyOf", "allOf", "pattern"}
    words |= {"minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"}

    def check_words(schema: dict[str, Any]) -> None:
        assert schema.keys() <= words, schema.keys() - words
        within = [*schema.get("properties", {}).values(), *schema.get("$defs", {}).values()]
        within += [
            *schema.get("oneOf", ()),
            *schema.get("anyOf", ()),
            schema.get("items"),
            schema.get("additionalProperties"),
        ]
        for one in within:
            if isinstance(one, dict):
                check_words(one)

    for schema in schemas().values():
        check_words(schema)


def test_each_schema_has_its_id_and_an_event_says_which_is_its_own() -> None:
    """`dataschema` is the `$id` of a file; each event is one branch by its `type`, and each payload is named."""
    made = schemas()
    ids = {schema["$id"]: name for name, schema in made.items()}
    assert len(ids) == len(made)
    assert all(schema["$schema"] == DIALECT for schema in made.values())
    seen = set()
    for name in ("event", "endpoint-event", "command-answer"):
        schema = made[name]
        for ref in schema["oneOf"]:
            branch = schema["$defs"][ref["$ref"].rpartition("/")[2]]
            kind = branch["properties"]["type"]["const"]
            assert ids[branch["properties"]["dataschema"]["const"]] == name
            assert schema["$defs"][branch["properties"]["data"]["$ref"].rpartition("/")[2]]["title"]
            seen.add(kind)
    assert {f"bridge.job.{name.value}" for name in EventName} <= seen
    assert schema_named("urn:bridge:schema:job-event:1") == schema_named("event") == made["event"]
    assert schema_named("nothing") is None


def test_a_union_of_what_was_one_document_is_held_to_each_of_its_parts() -> None:
    """Whoever read the one goes on reading; a part that has lost a field is found."""
    one: dict[str, Any] = {
        "properties": {"id": {"type": "string"}, "type": {"type": "string"}},
        "required": ["id"],
        "type": "object",
    }
    both: dict[str, Any] = {"anyOf": [copy.deepcopy(one), copy.deepcopy(one)]}
    assert breaks(one, both, incoming=False) == []
    del both["anyOf"][1]["properties"]["id"]
    assert breaks(one, both, incoming=False) == ["id: removed or renamed"]
