"""`runpod-emulator`: a wheel of the emulator alone, in an environment that has what it names and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

from tests.support.helpers import COMMAND_S
from tests.support.wheels import built, needed

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "packaging" / "emulator"
OURS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
THEIRS = tomllib.loads((FOLDER / "pyproject.toml").read_text())["project"]

PROGRAM = """
import importlib.util, json, urllib.request
from bridge.emulator import Emulator
assert not any(importlib.util.find_spec(name) for name in ("celery", "kombu", "redis", "pydantic", "requests"))
with Emulator(["mine"]) as emulator:
    request = urllib.request.Request(f"{emulator.base_url}/mine/runsync", json.dumps({"input": {"x": 1}}).encode())
    request.add_header("Authorization", "Bearer test-key")
    print(json.load(urllib.request.urlopen(request, timeout=30))["output"])
    page = urllib.request.urlopen(emulator.origin, timeout=30).read()
    print(b"<html" in page)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the tree."""
    return built(FOLDER, tmp_path_factory.mktemp("wheel"))


def test_it_is_the_trees_own_emulator_and_nothing_of_the_bridge(wheel: Path) -> None:
    """The same version, ranges and command; of the tree the emulator's folder alone."""
    assert set(THEIRS["dependencies"]) <= set(OURS["dependencies"])
    assert THEIRS["scripts"].items() <= OURS["scripts"].items()
    assert wheel.name.startswith(f"runpod_emulator-{distribution('runpod-bridge').version}-")
    with zipfile.ZipFile(wheel) as packed:
        names = {name for name in packed.namelist() if ".dist-info/" not in name}
    folder = ROOT / "bridge" / "emulator"
    ours = {str(file.relative_to(ROOT)) for file in folder.rglob("*") if file.is_file() and file.suffix != ".pyc"}
    assert names == ours | {"bridge/__init__.py", "bridge/py.typed", "bridge/emulator/LICENSE"}


def test_it_runs_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
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
    done = subprocess.run(
        [place / "bin" / "python", "-I", "-c", PROGRAM],
        cwd=tmp_path, env={}, capture_output=True, text=True, timeout=COMMAND_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-1000:]
    assert done.stdout.splitlines() == ["{'x': 1}", "True"]
