"""A private Prometheus on loopback, and its promtool."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

from bridge.embedded import tied
from tests.support.helpers import eventually, free_port

HOW_TO_GET_PROMETHEUS = (
    "Prometheus is not installed: Debian and Ubuntu: apt-get install prometheus; "
    "elsewhere put prometheus and promtool on PATH"
)
FOLDER = Path(__file__).parents[2] / "docker" / "prometheus"


def found(program: str) -> str:
    """The path of `prometheus` or `promtool`; skips without it."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(HOW_TO_GET_PROMETHEUS)
    return path


class Prometheus:
    """Runs docker/prometheus/ as it is, against a target of the test, with a scrape each second."""

    def __init__(self, directory: Path, target: str) -> None:
        """`target`: host and port of a bridge."""
        program = found("prometheus")
        config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(FOLDER / name) for name in config["rule_files"]]
        (job,) = config["scrape_configs"]
        job["static_configs"] = [{"targets": [target]}]
        file = directory / "prometheus.yml"
        file.write_text(yaml.safe_dump(config))
        self.address = f"127.0.0.1:{free_port()}"
        with (directory / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                tied(
                    program,
                    f"--config.file={file}",
                    f"--storage.tsdb.path={directory / 'tsdb'}",
                    f"--web.listen-address={self.address}",
                ),
                stdout=log,
                stderr=log,
            )

    def __enter__(self) -> Self:
        eventually(lambda: self.ask("/api/v1/query", query="up == 1")["result"], timeout=30)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)

    def ask(self, path: str, **parameters: str) -> Any:
        """`data` of an answer of the HTTP API. Raises HTTPError where a query cannot be read."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"http://{self.address}{path}?{query}", timeout=20) as answer:
            return json.load(answer)["data"]
