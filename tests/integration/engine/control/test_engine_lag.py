"""The figure to scale engines by: it rises when engines are wanted, and only then."""

from __future__ import annotations

import re
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tests.support.helpers import eventually, free_port
from tests.support.house import House


def scraped(port: int) -> Callable[[str], float]:
    """Reads one gauge of a running process, by its line's beginning; -1.0 while it is not there."""

    def gauge(name: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            found = re.search(rf"^{re.escape(name)} (\S+)$", answer.read().decode(), re.MULTILINE)
        return float(found[1]) if found else -1.0

    return gauge


LAG = 'bridge_engine_lag_seconds{endpoint="demo"}'
USED = 'bridge_budget_used_ratio{endpoint="demo",op="run"}'


def test_work_that_an_engine_could_do_is_late_and_what_waits_for_the_budget_is_not(
    redis_url: str, tmp_path: Path
) -> None:
    """Without an engine requests make the lag grow; once RunPod's budget is what they wait for, it is 0."""
    port, limits = free_port(), tmp_path / "bridge.toml"
    limits.write_text("[endpoints.demo.limits]\nrun = { calls = 1 }\n")
    with House(tmp_path, broker=redis_url, redis_url=redis_url, config_file=str(limits)) as house:
        house.worker(BRIDGE_HTTP_BIND=f"127.0.0.1:{port}", BRIDGE_ENGINE="off")
        gauge = scraped(port)
        for number in range(12):
            house.send({"n": number}, priority=number % 10)
        eventually(lambda: gauge(LAG) > 0.5)
        assert gauge(USED) == 0.0
        house.start("engine", str(Path(sys.executable).with_name("bridge")), "engine")
        eventually(lambda: gauge(USED) == 1.0)
        eventually(lambda: gauge(LAG) == 0.0 and gauge("bridge_oldest_seconds") > 1.0)
        assert gauge('bridge_requests{endpoint="demo",phase="ACCEPTED"}') > 5


def test_what_a_paused_endpoint_holds_makes_no_engine_late(redis_url: str, tmp_path: Path) -> None:
    """Nobody may submit it: more engines would only wait beside it."""
    port = free_port()
    with House(tmp_path, broker=redis_url, redis_url=redis_url, http_bind=f"127.0.0.1:{port}") as house:
        house.worker()
        gauge = scraped(port)
        house.ask("pause", endpoint="demo")
        house.send({"n": 1})
        eventually(lambda: gauge("bridge_oldest_seconds") > 1.0)
        assert gauge(LAG) == 0.0
        house.ask("resume", endpoint="demo")
        eventually(lambda: gauge("bridge_oldest_seconds") == 0.0)
