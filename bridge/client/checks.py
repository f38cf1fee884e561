"""What is refused before it leaves: by the models and rules of the bridge's own doors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from bridge.job.models import JsonCommand
from bridge.job.request import check_request_id, explain, rejected
from bridge.job.strict import TEXT_MAX, check_json, short


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
