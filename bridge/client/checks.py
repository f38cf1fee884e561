"""What is refused before it leaves: by the models and rules of the bridge's own doors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from bridge.job.contract.models import JsonCommand
from bridge.job.request import check_request_id, explain, rejected
from bridge.job.strict_json import TEXT_MAX, check_json, short

#: What an index or a sequence may be: the ids of a Redis stream have 64 bits.
INDEX_MAX = 2**63 - 1


def check_url(url: object, default: str, environment: str | None) -> str:
    """The ledger's address: as given, else the environment's, else the default. Raises TypeError, ValueError."""
    name = "url" if url is not None else "BRIDGE_REDIS_URL"
    found = url if url is not None else environment
    if found is None:
        return default
    if not isinstance(found, str):
        raise TypeError(f"{name}: must be text such as {default}")
    if not found.strip():
        raise ValueError(f"{name}: is empty; give the address of the bridge's Redis, such as {default}")
    return found


def check_seconds(name: str, value: object) -> None:
    """None, or a number of seconds from 0 on. Raises TypeError, ValueError."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: must be a number of seconds")
    if math.isnan(value) or value < 0:
        raise ValueError(f"{name}: must be a number of seconds, 0 or more")


def check_index(name: str, value: object) -> None:
    """Raises TypeError, ValueError."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: must be a whole number")
    if not 0 <= value <= INDEX_MAX:
        raise ValueError(f"{name}: must be 0 or more, and at most 2**63 - 1")


def check_command(command: Mapping[str, Any]) -> dict[str, Any]:
    """The command as given. Raises JobRejected naming field and rule."""
    try:
        JsonCommand.model_validate(dict(command), strict=True)
    except ValidationError as error:
        raise rejected(*explain(error)) from None
    if "id" in command:
        check_request_id(command["id"])
    check_json(command)
    return dict(command)


def check_correlation_id(value: object) -> None:
    """Raises JobRejected."""
    if value is None:
        return
    if not isinstance(value, str):
        raise rejected("correlation_id", "correlation_id: must be a string")
    if not short(value):
        rule = f"must be at most {TEXT_MAX} bytes, without control characters"
        raise rejected("correlation_id", f"correlation_id: {rule}")
