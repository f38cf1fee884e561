"""`runpod-bridge-client`: a wheel of the client alone, tried where nothing but redis and pydantic is."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.support.helpers import COMMAND_S
from tests.support.house import ROOT, House
from tests.support.wheels import built, needed

FOLDER = ROOT / "packaging" / "client"
OURS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
THEIRS = tomllib.loads((FOLDER / "pyproject.toml").read_text())["project"]

LOADED = "import sys, bridge.client; print(*sorted(n for n in sys.modules if n.partition('.')[0] == 'bridge'))"
PROGRAM = """
import importlib.util, sys
from bridge.client import Client, JobRejected
assert not any(importlib.util.find_spec(name) for name in ("celery", "kombu", "requests", "starlette", "click"))
with Client(sys.argv[1]) as bridge:
    try:
        bridge.submit("a fox")
    except JobRejected as refused:
        print(refused)
    request_id = bridge.submit({"prompt": "a fox"})
    print(bridge.result(request_id, timeout=120))
    print(bridge.status(request_id).status)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the tree."""
    return built(FOLDER, tmp_path_factory.mktemp("wheel"))


def test_its_needs_are_the_bridges(wheel: Path) -> None:
    """The same ranges and the same version, and of the tree what the client loads."""
    assert set(THEIRS["dependencies"]) <= set(OURS["dependencies"])
    assert {Requirement(one).name for one in THEIRS["dependencies"]} == {"redis", "pydantic"}
    assert wheel.name.startswith(f"runpod_bridge_client-{distribution('runpod-bridge').version}-")
    loaded = subprocess.run(
        [sys.executable, "-c", LOADED], cwd=ROOT, capture_output=True, text=True, check=True, timeout=COMMAND_S
    ).stdout.split()
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
    files = [name.removesuffix(".py").removesuffix("/__init__") for name in names if name.endswith(".py")]
    assert {name.replace("/", ".") for name in files} == set(loaded)
    assert "bridge/py.typed" in names


def test_a_job_is_submitted_from_an_empty_environment(wheel: Path, redis_url: str, tmp_path: Path) -> None:
    """With the wheel and what it names, copied from here: no index is asked."""
    place = tmp_path / "empty"
    venv.create(place, with_pip=False, symlinks=True)
    site = next(place.glob("lib/python*/site-packages"))
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(site)
    for name in needed(list(THEIRS["dependencies"])):
        for file in distribution(name).files or []:
            if file.parts[0] not in {"..", "/"} and file.suffix != ".pyc":
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(file.locate()), site / file)
    with House(tmp_path, broker=redis_url, redis_url=redis_url) as house:
        house.worker()
        done = subprocess.run(
            [place / "bin" / "python", "-I", "-c", PROGRAM, redis_url],
            cwd=tmp_path, env={}, capture_output=True, text=True, timeout=COMMAND_S, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-1000:]
    assert done.stdout.splitlines() == ["input: must be an object", "{'prompt': 'a fox'}", "COMPLETED"]
