"""Distributions made from the tree, as the tests of each try them."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

from tests.support.helpers import COMMAND_S


def built(folder: Path, out: Path) -> Path:
    """The wheel of a distribution's folder, made from the tree."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=COMMAND_S)
    return next(out.glob("*.whl"))


def needed(names: list[str]) -> set[str]:
    """The distributions that these bring along, without any extra."""
    found: set[str] = set()
    while names:
        asked = Requirement(names.pop())
        if asked.name in found or (asked.marker is not None and not asked.marker.evaluate({"extra": ""})):
            continue
        found.add(asked.name)
        names += distribution(asked.name).requires or []
    return found
