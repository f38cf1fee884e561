"""A bounded sample of `scripts/bench poison`."""

from __future__ import annotations

import pytest

from tests.support.flood import run
from tests.support.house import House


@pytest.mark.timeout(1800)
def test_a_flood_of_bad_messages_keeps_no_good_one_from_its_end(
    amqp_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """2,000 bad ones on both doors are dead letters, a good one every hundred ends, and memory stays what it was."""
    with House(tmp_path_factory.mktemp("flood"), broker=amqp_url, redis_url=redis_url) as house:
        told = run(house, 2_000, timeout=60)
    assert (told["bad"], told["good"]) == (2_000, 20)
    assert told["mib_at_the_end"] < told["mib_after_a_quarter"] + 30
