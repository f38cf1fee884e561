"""The documents of the plain JSON contract, as models: for JSON Schemas and for whoever wants to read them typed."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field
from pydantic.json_schema import GenerateJsonSchema

from bridge.job.contract.documents import Chunk, Document, Open, Transition
from bridge.job.contract.events import CommandAnswer, DeadLetter, EndpointEvent, JobEvent
from bridge.job.request import RunRequest


class Names(GenerateJsonSchema):
    """As generators and validators of all languages read it.

    Titles are for models alone: generators make a type of whatever has one, and `Id17` is no name.
    """

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never: a field has its name."""
        del schema
        return False

    def default_schema(self, schema: Any) -> dict[str, Any]:
        """What may be any value has no word beside it: json2ts takes `{"default": null}` for an object."""
        made = super().default_schema(schema)
        return {} if made == {"default": None} else made

    def tagged_union_schema(self, schema: Any) -> dict[str, Any]:
        """Without `discriminator`, a word of OpenAPI's at which Ajv stops; each `type` is a constant."""
        made = super().tagged_union_schema(schema)
        made.pop("discriminator", None)
        return made


class JsonRequest(RunRequest):
    """A request as a service sends it: `bridge.run`'s arguments beside these."""

    id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._:\-]{1,200}$")
    correlation_id: str | None = None


class JsonCommand(Open):
    """A command as a service sends it: `op`, and that task's arguments."""

    op: Literal["cancel", "status", "stream", "retry", "health", "purge", "pause", "resume"]
    id: str | None = None
    job_id: str | None = None
    endpoint: str | None = None
    refresh: bool = False
    content: bool = Field(default=False, description="status: a large output itself, not its reference")
    pending: bool = False
    reason: str | None = None
    by: str | None = None
    reply_to: str | None = None
    correlation_id: str | None = None
    group: str | None = Field(default=None, description="cancel: every member of a Celery group")
    where: dict[str, str | int | float] | None = Field(default=None, description="cancel: requests of this metadata")


#: Documents that services send, by the names of their schemas; and those that the bridge sends.
INCOMING: dict[str, type[BaseModel]] = {"request": JsonRequest, "command": JsonCommand}
OUTGOING: dict[str, type[BaseModel]] = {
    "command-answer": CommandAnswer,
    "document": Document,
    "event": JobEvent,
    "transition": Transition,
    "endpoint-event": EndpointEvent,
    "dead-letter": DeadLetter,
    "chunk": Chunk,
}


DIALECT = "https://json-schema.org/draft/2020-12/schema"
#: Schemas whose id is not made of their name: events carry theirs in `dataschema`.
_IDS = {"event": "job-event"}


def id_of(name: str) -> str:
    """The `$id` of a schema; that of an event, an answer or a dead letter is what stands in its `dataschema`."""
    return f"urn:bridge:schema:{_IDS.get(name, name)}:1"


def schemas() -> dict[str, Any]:
    """Name -> JSON Schema (2020-12)."""
    return {
        name: {"$schema": DIALECT, "$id": id_of(name), **model.model_json_schema(schema_generator=Names)}
        for name, model in (INCOMING | OUTGOING).items()
    }


def schema_named(name: str) -> dict[str, Any] | None:
    """A schema by its name or its `$id`, as `dataschema` has it; None when there is none."""
    made = schemas()
    return made.get(name) or next((one for one in made.values() if one["$id"] == name), None)
