"""Generators make a named type of every event, document and command: json2ts and AsyncAPI's modelina."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bridge.job.contract.asyncapi import model_of
from bridge.job.enums import EventName
from tests.support.helpers import COMMAND_S

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "typescript"
MODELINA = Path(__file__).with_name("modelina")
EVENTS = {model_of(name) for name in EventName}
OTHERS = {"CommandAnswered", "CommandRefused", "DeadLetter", "JsonRequest", "JsonCommand", "ChunkData", "ProgressData"}


def node(folder: Path, package: str, *command: str) -> str:
    """What a program says; skips where it cannot run."""
    found = shutil.which("node")
    if found is None or not (folder / "node_modules" / package).is_dir():
        how = f"needs Node.js 18 or later and: npm install --no-package-lock --prefix {folder.relative_to(ROOT)}"
        pytest.skip(how)
    done = subprocess.run(
        [found, *command], cwd=folder, capture_output=True, text=True, timeout=COMMAND_S, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-1000:]
    return done.stdout


def test_the_example_s_types_are_those_of_the_schemas(tmp_path: Path) -> None:
    """Made anew they are the same; each name once; and the client written with them compiles under `strict`."""
    made = tmp_path / "types.ts"
    node(EXAMPLE, "json-schema-to-typescript", "types.mjs", str(ROOT / "docs" / "schema"), str(made))
    text = made.read_text()
    assert text == (EXAMPLE / "src" / "types.ts").read_text()
    names = re.findall(r"^export (?:interface|type) (\w+)", text, re.MULTILINE)
    assert set(names) >= EVENTS | OTHERS | {"Document", "JobEvent", "CommandAnswer"}
    assert len(names) == len(set(names))
    node(EXAMPLE, "typescript", "node_modules/typescript/bin/tsc", "--noEmit")


def test_modelina_names_every_event_and_command() -> None:
    """From docs/asyncapi.json. It keeps the word Document for itself, and says ReservedDocument."""
    told = json.loads(node(MODELINA, "@asyncapi/modelina", "models.mjs", str(ROOT / "docs" / "asyncapi.json")))
    assert set(told) >= EVENTS | OTHERS
