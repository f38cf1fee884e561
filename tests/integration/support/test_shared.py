"""The RabbitMQ node that the test processes of a run share."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kombu
import pytest

from tests.support.house import ROOT
from tests.support.servers import RabbitServer, find_rabbitmq
from tests.support.shared import HURTS, Lender, LentRabbit

#: Where there is none, the fixtures skip.
SCRIPT = find_rabbitmq() or Path()


@pytest.fixture(scope="module")
def lender(lent_rabbitmq: RabbitServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lender]:
    """As the leading process has it; its node is this run's, which another start of one would only repeat."""
    made = Lender(tmp_path_factory.mktemp("lent"))
    made.node = lent_rabbitmq
    yield made
    made.node = None
    made.stop()


def test_a_test_process_among_others_has_the_node_of_all(
    lent_rabbitmq: RabbitServer, request: pytest.FixtureRequest
) -> None:
    """One that is alone has its own."""
    assert isinstance(lent_rabbitmq, LentRabbit) == hasattr(request.config, "workerinput")


def test_two_who_ask_use_one_node_and_no_virtual_host_of_each_other(lender: Lender) -> None:
    """Whatever each of them has made before."""
    one, other = LentRabbit(SCRIPT, lender.port, "one"), LentRabbit(SCRIPT, lender.port, "other")
    assert one.port == other.port
    urls = [server.start().fresh_url() for server in (one, other, one)]
    assert len(set(urls)) == 3
    for url in urls:
        with kombu.Connection(url) as connection:
            connection.ensure_connection(max_retries=1)


def test_calls_at_one_moment_do_not_disturb_each_other(lent_rabbitmq: RabbitServer) -> None:
    """Each is a node for Erlang, and needs a name of its own."""
    lent_rabbitmq.start()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda n: lent_rabbitmq.erl(f"timer:sleep(50), {n}"), range(24))) == [*map(str, range(24))]


@pytest.mark.parametrize("hurt", ["kill", "freeze", "thaw", "restart"])
def test_who_would_hurt_it_is_told_where_to_ask_for_an_own_one(hurt: str, lender: Lender) -> None:
    """It is others' too."""
    lent = LentRabbit(SCRIPT, lender.port, "bad")
    with pytest.raises(AssertionError, match="HURTS"):
        getattr(lent, hurt)()
    lent.stop()
    with kombu.Connection(lent.fresh_url()) as connection:
        connection.ensure_connection(max_retries=1)


def test_those_who_hurt_theirs_are_files() -> None:
    """None was renamed."""
    assert [file for file in HURTS if not (ROOT / file).is_file()] == []
