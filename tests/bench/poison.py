"""50,000 bad messages through both doors for plain JSON, and what becomes of the process and of the good ones between.

scripts/bench poison [--messages 50000] [--json]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from bridge.embedded import EmbeddedRedis
from tests.support.flood import run
from tests.support.house import House
from tests.support.servers import HOW_TO_GET_RABBITMQ, RabbitServer, find_rabbitmq


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="scripts/bench poison")
    parser.add_argument("--messages", type=int, default=50_000)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    script = find_rabbitmq()
    if script is None:
        parser.error(HOW_TO_GET_RABBITMQ)
    with tempfile.TemporaryDirectory(prefix="bridge-bench-") as directory:
        folder = Path(directory)
        for name in ("rabbit", "house"):
            (folder / name).mkdir()
        server, rabbit = EmbeddedRedis(directory=folder / "redis"), RabbitServer(script, folder / "rabbit")
        server.start()
        rabbit.start()
        try:
            url = f"redis://127.0.0.1:{server.port}/1"
            with House(folder / "house", broker=rabbit.fresh_url(), redis_url=url) as house:
                told = run(house, asked.messages, timeout=600)
        finally:
            server.stop()
            rabbit.stop()
    print(json.dumps(told) if asked.json else "\n".join(f"{k:20} {v:>10}" for k, v in told.items()))  # noqa: T201


if __name__ == "__main__":
    main()
