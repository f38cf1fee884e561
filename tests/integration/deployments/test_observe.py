"""The alert rules and the dashboard, against a real Prometheus that scrapes a running bridge."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.support.helpers import COMMAND_S, eventually, free_port
from tests.support.house import House
from tests.support.prometheus import FOLDER, Prometheus, found
from tests.support.servers import RedisServer

pytestmark = pytest.mark.slow

DOCKER = FOLDER.parent
DASHBOARD = DOCKER / "grafana" / "dashboards" / "bridge.json"
#: Gauges that are there in trouble alone, so that nobody has to look at a zero.
IN_TROUBLE = {"bridge_follow_ups_unread"}


def rules() -> dict[str, str]:
    """The expressions of the alerts by name."""
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def queries() -> dict[str, str]:
    """Each query of the dashboard, for all endpoints, by its panel's title and letter."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return {
        f"{panel['title']} {target['refId']}": target["expr"].replace("$endpoint", ".*")
        for panel in panels
        for target in panel.get("targets", ())
    }


@pytest.fixture(scope="module")
def observed(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[House, Prometheus, str]]:
    """A bridge that has done a job, a Prometheus that scrapes it, and what the bridge's /metrics said."""
    found("prometheus")
    folder, url, port = tmp_path_factory.mktemp("observe"), redis_server.start().fresh_url(), free_port()
    with House(folder, broker=url, redis_url=url, http_bind=f"127.0.0.1:{port}") as house:
        house.worker()
        house.send({"a": 1}).get(timeout=30)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            text = answer.read().decode()
        with Prometheus(folder, f"127.0.0.1:{port}") as prometheus:
            yield house, prometheus, text


def test_each_alert_fires_in_its_case_and_none_where_all_is_well() -> None:
    """Promtool's own tests of the rules; each alert has a case."""
    promtool = found("promtool")
    done = subprocess.run(
        [promtool, "test", "rules", str(FOLDER / "alerts.test.yml")],
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    cases = {case["name"] for case in yaml.safe_load((FOLDER / "alerts.test.yml").read_text())["tests"]}
    assert cases == {*rules(), "healthy"}


def test_each_query_is_one_that_prometheus_answers(observed: tuple[House, Prometheus, str]) -> None:
    """Of rules, dashboard and KEDA's trigger; each metric in it is one that the bridge has."""
    _, prometheus, text = observed
    known = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)) | IN_TROUBLE
    known |= {f"{name}_bucket" for name in known}
    scaled = yaml.safe_load((DOCKER / "k8s" / "keda" / "scaled-object.yaml").read_text())
    (trigger,) = scaled["spec"]["triggers"]
    lag = trigger["metadata"]["query"]
    assert len(eventually(lambda: prometheus.ask("/api/v1/query", query=lag)["result"])) == 1, "KEDA wants one figure"
    for name, query in {**rules(), **queries()}.items():
        prometheus.ask("/api/v1/query", query=query)  # a query that cannot be read is answered 400
        assert set(re.findall(r"\bbridge_\w+", query)) <= known, name


def test_the_panels_that_tell_of_a_healthy_bridge_have_something_to_show(
    observed: tuple[House, Prometheus, str],
) -> None:
    """A wrong label would make an empty panel: what is there without trouble is there, with its endpoint."""
    _, prometheus, _ = observed
    shown = {name: prometheus.ask("/api/v1/query", query=query)["result"] for name, query in queries().items()}
    for panel in ("Engines A", "Engine lag A", "In flight A", "Ledger memory A", "Alerts A", "By phase A"):
        assert shown[panel], panel
    (verdict,) = shown["Endpoints A"]
    assert verdict["metric"] == {"endpoint": "demo", "verdict": "ok"}
    assert {one["metric"]["op"] for one in shown["RunPod's budget, used part A"]} == {"run", "status"}
    eventually(lambda: prometheus.ask("/api/v1/query", query=queries()["Calls per second A"])["result"])


def test_an_alert_begins_with_its_fault_and_ends_with_its_mending(observed: tuple[House, Prometheus, str]) -> None:
    """A bridge that is well has none; an account without credit is told."""
    house, prometheus, _ = observed

    def alerts() -> list[dict[str, Any]]:
        return list(prometheus.ask("/api/v1/alerts")["alerts"])

    eventually(lambda: not alerts())  # until its first scrape Prometheus knows of no process
    house.emulator.fault("out_of_credit", times=None)
    sent = house.send({"a": 2})
    (alert,) = eventually(alerts, timeout=30)
    told = {name: alert["labels"].get(name) for name in ("alertname", "endpoint", "verdict")}
    assert told == {"alertname": "BridgeEndpointClosed", "endpoint": "demo", "verdict": "out_of_credit"}
    house.emulator.clear_faults()
    assert sent.get(timeout=60) == {"a": 2}
    eventually(lambda: not alerts(), timeout=30)


def test_grafana_is_given_what_the_compose_file_mounts() -> None:
    """Folders and the name of the data source agree; panels do not overlap, and none lies outside."""
    compose = yaml.safe_load((DOCKER / "compose.observe.yml").read_text())
    mounts = dict(entry.split(":")[:2] for entry in compose["services"]["grafana"]["volumes"])
    assert all((DOCKER / folder).is_dir() for folder in mounts)
    (source,) = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((DOCKER / "grafana/provisioning/dashboards/bridge.yml").read_text())["providers"]
    assert provider["options"]["path"] in mounts.values()
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert {panel["datasource"]["uid"] for panel in panels if panel["type"] != "row"} == {source["uid"]}
    taken: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in panels):
        columns, rows = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        cells = {(x, y) for x in columns for y in rows}
        assert not cells & taken
        assert all(x < 24 for x, _ in cells)
        taken |= cells
