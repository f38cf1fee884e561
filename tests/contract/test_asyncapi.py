"""docs/asyncapi.json is a document that the AsyncAPI initiative's own parser takes."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.helpers import COMMAND_S

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).with_name("asyncapi")
DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "asyncapi.json"
HOW_TO_GET_IT = "needs Node.js 18 or later and: npm install --no-package-lock --prefix tests/contract/asyncapi"


def test_the_official_parser_finds_no_error() -> None:
    """And sees every channel and message."""
    node = shutil.which("node")
    if node is None or not (FOLDER / "node_modules" / "@asyncapi" / "parser").is_dir():
        pytest.skip(HOW_TO_GET_IT)
    done = subprocess.run(
        [node, "check.mjs", str(DOCUMENT)], cwd=FOLDER, capture_output=True, text=True, timeout=COMMAND_S, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    ours = json.loads(DOCUMENT.read_text())
    assert told == {
        "errors": [],
        "channels": len(ours["channels"]),
        "messages": len(ours["components"]["messages"]),
    }
