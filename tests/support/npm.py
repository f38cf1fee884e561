"""What tests take from npm: installed by scripts/test --all, else skipped."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

DEPLOYMENTS = Path(__file__).parents[1] / "integration" / "deployments" / "npm"
HOW_TO_GET_IT = (
    "needs Node.js 18 or later and: npm install --no-package-lock --prefix tests/integration/deployments/npm"
)


def of_npm(package: str) -> Path:
    """The folder of an installed package."""
    found = DEPLOYMENTS / "node_modules" / package
    if shutil.which("node") is None or not found.is_dir():
        pytest.skip(HOW_TO_GET_IT)
    return found
