"""Whether a schema holds only additions to one that was released: the rule within a major version.

Services send some documents and read others, so a change may break one side and not the other: a new field that must be
given breaks who sends, a field that is no longer always there breaks who reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]
#: Bounds that break a sender when they are set, or changed this way.
_LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
DEPTH_MAX = 20


def breaks(released: Schema, current: Schema, *, incoming: bool) -> list[str]:
    """What would break those who hold on to the released schema, as `path: what`; empty when nothing does."""
    return list(_Walk(released, current, incoming=incoming).node("", released, current, 0))


def of_openapi(released: Schema, current: Schema) -> list[str]:
    """The same of an OpenAPI document: its paths, methods, parameters, answers, and all that is told or taken."""
    found = []
    for path, methods in released["paths"].items():
        for method, was in methods.items():
            at, becomes = f"{method.upper()} {path}", current["paths"].get(path, {}).get(method)
            if becomes is None:
                found.append(f"{at}: removed or renamed")
                continue
            found += [f"{at}: {what}" for what in _of_operation(was, becomes, released, current)]
    return found


def _of_operation(was: Schema, becomes: Schema, released: Schema, current: Schema) -> Iterator[str]:
    if was["operationId"] != becomes["operationId"]:
        yield f"operationId: {was['operationId']} became {becomes['operationId']}"
    before, after = ({(one["in"], one["name"]): one for one in op["parameters"]} for op in (was, becomes))
    yield from (f"parameter {name}: removed" for place, name in before.keys() - after.keys())
    for key, parameter in after.items():
        if parameter.get("required") and not before.get(key, {}).get("required"):
            yield f"parameter {key[1]}: must be given now"
    for code in was["responses"].keys() - becomes["responses"].keys():
        yield f"answer {code}: removed"
    if "requestBody" in was or "requestBody" in becomes:
        if becomes.get("requestBody", {}).get("required") and not was.get("requestBody", {}).get("required"):
            yield "body: must be given now"
        yield from _of_content("body", was.get("requestBody", {}), becomes.get("requestBody", {}), released, current)
    for code in was["responses"].keys() & becomes["responses"].keys():
        yield from _of_content(f"answer {code}", was["responses"][code], becomes["responses"][code], released, current)


def _of_content(at: str, was: Schema, becomes: Schema, released: Schema, current: Schema) -> Iterator[str]:
    for kind, told in was.get("content", {}).items():
        if kind not in becomes.get("content", {}):
            yield f"{at}: {kind} is gone"
            continue
        walk = _Walk(released, current, incoming=at == "body")
        old, new = told.get("schema", {}), becomes["content"][kind].get("schema", {})
        yield from (f"{at}: {what}" for what in walk.node("", old, new, 0))


class _Walk:
    def __init__(self, released: Schema, current: Schema, *, incoming: bool) -> None:
        self._old_root = released
        self._new_root = current
        self._incoming = incoming

    def node(self, path: str, old: Schema, new: Schema, depth: int) -> Iterator[str]:
        old, new = _resolved(old, self._old_root), _resolved(new, self._new_root)
        if depth > DEPTH_MAX or old == new == {}:
            return
        if "properties" in old and not self._incoming and (parts := _of_union(new, self._new_root)):
            for one in parts:  # whoever reads the one reads each of them
                yield from self.node(path, old, one, depth + 1)
            return
        here = path or "(document)"
        yield from self._types(here, old, new)
        yield from self._values(here, old, new)
        yield from self._bounds(here, old, new)
        yield from self._fields(path, old, new, depth)
        for part in ("items", "additionalProperties"):
            was, becomes = old.get(part), new.get(part)
            if isinstance(was, Mapping) and isinstance(becomes, Mapping):
                yield from self.node(f"{path}[]" if part == "items" else f"{path}.*", was, becomes, depth + 1)
        if self._incoming and old.get("additionalProperties", True) and new.get("additionalProperties") is False:
            yield f"{here}: unknown names are refused now"
        for name, was in _objects(old, self._old_root).items():
            becomes = _objects(new, self._new_root).get(name)
            if becomes is not None and (old.get("anyOf") or old.get("oneOf")):
                yield from self.node(path, was, becomes, depth + 1)

    def _fields(self, path: str, old: Schema, new: Schema, depth: int) -> Iterator[str]:
        was, becomes = old.get("properties", {}), new.get("properties", {})
        for name, schema in was.items():
            at = f"{path}.{name}" if path else name
            if name not in becomes:
                yield f"{at}: removed or renamed"
            else:
                yield from self.node(at, schema, becomes[name], depth + 1)
        must, shall = set(old.get("required", ())), set(new.get("required", ()))
        if self._incoming:
            yield from (f"{path}.{name}".strip(".") + ": must be given now" for name in sorted(shall - must))
        else:
            gone = (must - shall) & becomes.keys()
            yield from (f"{path}.{name}".strip(".") + ": is not always there any more" for name in sorted(gone))

    def _types(self, here: str, old: Schema, new: Schema) -> Iterator[str]:
        was, becomes = _types(old, self._old_root), _types(new, self._new_root)
        if self._incoming and not _covers(becomes, was):
            yield f"{here}: retyped: {_said(was)} was taken, {_said(becomes)} is"
        if not self._incoming and not _covers(was, becomes):
            yield f"{here}: retyped: {_said(was)} was told, {_said(becomes)} is"

    @staticmethod
    def _values(here: str, old: Schema, new: Schema) -> Iterator[str]:
        if "const" in old and old["const"] != new.get("const", old["const"]):
            yield f"{here}: {old['const']!r} became {new['const']!r}"
        gone = [value for value in old.get("enum", ()) if "enum" in new and value not in new["enum"]]
        if gone:
            yield f"{here}: removed: {', '.join(map(str, gone))}"

    def _bounds(self, here: str, old: Schema, new: Schema) -> Iterator[str]:
        for name in ("pattern", "format"):
            if name in new and new[name] != old.get(name) and (self._incoming or name in old):
                yield f"{here}: {name} is {new[name]!r}, and was {old.get(name)!r}"
        if not self._incoming:
            return
        for name in _LOWER:
            if name in new and new[name] > old.get(name, float("-inf")):
                yield f"{here}: {name} is {new[name]}, and was {old.get(name, 'not set')}"
        for name in _UPPER:
            if name in new and new[name] < old.get(name, float("inf")):
                yield f"{here}: {name} is {new[name]}, and was {old.get(name, 'not set')}"


def _resolved(schema: Schema, root: Schema) -> Schema:
    found: Any = schema
    for _ in range(DEPTH_MAX):
        if "$ref" not in found:
            break
        target: Any = root
        for part in found["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        found = target
    return found if isinstance(found, Mapping) else {}


def _branches(schema: Schema, root: Schema) -> list[Schema]:
    found = schema.get("anyOf") or schema.get("oneOf")
    return [_resolved(one, root) for one in found] if found else [schema]


def _of_union(schema: Schema, root: Schema) -> list[Schema]:
    """The branches of a union of objects; none where it is no such union."""
    found = _branches(schema, root) if "properties" not in schema else []
    return found if len(found) > 1 and all("properties" in one for one in found) else []


def _objects(schema: Schema, root: Schema) -> dict[str, Schema]:
    """Branches that are objects with fields of their own, by title."""
    return {str(one.get("title", "")): one for one in _branches(schema, root) if "properties" in one}


def _types(schema: Schema, root: Schema) -> frozenset[str]:
    """The JSON types of a place; `any` where it says none."""
    found: set[str] = set()
    for branch in _branches(schema, root):
        kind = branch.get("type")
        if kind is None and ("enum" in branch or "const" in branch):
            values = branch.get("enum", [branch.get("const")])
            found |= {_type_of(value) for value in values}
        elif kind is None:
            found.add("any")
        else:
            found |= set([kind] if isinstance(kind, str) else kind)
    return frozenset(found)


def _type_of(value: object) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null", list: "array"}
    return names.get(type(value), "object")


def _covers(wide: frozenset[str], narrow: frozenset[str]) -> bool:
    if "any" in wide:
        return True
    return all(kind in wide or (kind == "integer" and "number" in wide) for kind in narrow)


def _said(kinds: frozenset[str]) -> str:
    return " or ".join(sorted(kinds))


def as_text(schema: Schema) -> str:
    """As it is committed."""
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"
