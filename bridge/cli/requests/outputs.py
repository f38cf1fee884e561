"""Outputs whole, whatever their size, from the ledger or the object store."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridge.process.components import Components


def content_of(has: Components, request_id: str) -> Any:
    """A large output from wherever it is kept. Raises OutputUnavailable when it is kept nowhere any more."""
    from bridge.errors import OutputUnavailable  # noqa: PLC0415

    held = has.ledger.load(request_id, output=True)
    text = has.outputs.whole(held) if held is not None else None
    if text is None:
        raise OutputUnavailable(f"the output of {request_id} is not kept any more")
    return json.loads(text)


def with_output(has: Components, told: dict[str, Any]) -> dict[str, Any]:
    """A document with its output, however large. Raises OutputUnavailable."""
    if "output_ref" not in told or told.get("retained") is False:
        return told
    rest = {name: value for name, value in told.items() if name != "output_ref"}
    return {**rest, "output": content_of(has, str(told["id"]))}
