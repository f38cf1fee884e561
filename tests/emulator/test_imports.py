"""The emulator's files import each other in no circle, with type-only and lazy imports counted."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import bridge.emulator

ROOT = Path(bridge.emulator.__file__).parent


def imports(root: Path) -> dict[str, set[str]]:
    """Return which module below `root` names which, wherever in the file the import stands."""
    package = "bridge.emulator"
    files = {
        ".".join((package, *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in root.rglob("*.py")
    }
    found: dict[str, set[str]] = {}
    for name, path in files.items():
        named: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                named |= (inner & set(files)) or {node.module}
        found[name] = named & set(files)
    return found


def test_there_is_no_circle() -> None:
    """Every file can be read after the ones it names."""
    graph = imports(ROOT)
    assert len(graph["bridge.emulator.platform"]) > 5
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_folder_has_more_files_than_a_reader_holds() -> None:
    """About twelve, and each says what it is for."""
    for folder in {path.parent for path in ROOT.rglob("*.py")}:
        assert len([path for path in folder.iterdir() if path.is_file()]) <= 12
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
