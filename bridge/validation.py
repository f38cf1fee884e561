"""What is wrong with a setting or an argument, in words of ours: nothing of the checking library's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: By the library's kind of fault; what stands in braces is in the fault's context.
_RULES = {
    "missing": "is required",
    "extra_forbidden": "is no setting; is it misspelled, or does it belong to another table?",
    "bool": "must be true or false",
    "int": "must be a whole number",
    "float": "must be a number",
    "string_pattern_mismatch": "must match {pattern}",
    "string": "must be a string",
    "list": "must be a list",
    "dict": "must be {mapping}",
    "model": "must be {mapping}",
    "path": "must be a path",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be over {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be under {lt}",
}


def rule(fault: Mapping[str, Any], *, mapping: str = "a table") -> str:
    """The rule that was broken, from one entry of pydantic's `ValidationError.errors()`.

    `mapping` is what names with values are called where the fault was made: a table of TOML, an object of JSON.
    """
    kind, said = fault["type"], str(fault["msg"]).removeprefix("Value error, ")
    found = _RULES.get(kind) or next((text for name, text in _RULES.items() if kind.startswith(f"{name}_")), None)
    return found.format(mapping=mapping, **fault.get("ctx", {})) if found else said
