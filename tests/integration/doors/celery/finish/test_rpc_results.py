"""Results by `rpc://`: a message to each who asked, with the states on the way, however often and whenever he asks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from tests.support.helpers import eventually
from tests.support.house import House, foreign_app, hang_up


@pytest.fixture
def house(amqp_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A worker on RabbitMQ that keeps no results."""
    with House(tmp_path_factory.mktemp("rpc"), broker=amqp_url, redis_url=redis_url, backend="rpc://") as made:
        made.worker()
        yield made


@contextmanager
def another(house: House) -> Iterator[Any]:
    """Another process of producers, with a reply queue of its own."""
    app = foreign_app(house.broker, "rpc://")
    try:
        yield app
    finally:
        hang_up(app)


def send(app: Any, task_id: str, **input: Any) -> Any:
    """`bridge.run` under an id."""
    return app.send_task("bridge.run", kwargs={"input": input}, queue="bridge.run", task_id=task_id)


def test_every_sender_of_an_id_is_answered_and_told_the_states(house: House) -> None:
    """The first, one that sends it while it runs, and two that send it after its end; RunPod gets it once."""
    seen: list[str] = []
    first = send(house.app, "rpc-1", mock_delay=2)
    eventually(partial(house.phase, "rpc-1"))
    with another(house) as second, another(house) as third:
        while_it_runs = send(second, "rpc-1", mock_delay=2)
        output = while_it_runs.get(timeout=30, on_message=lambda meta: seen.append(meta["status"]))
        assert output is not None
        assert "IN_PROGRESS" in seen
        assert first.get(timeout=30) == output
        for app in (third, second):
            assert send(app, "rpc-1", mock_delay=2).get(timeout=30) == output
    assert house.submits() == 1


def test_another_request_under_a_known_id_is_refused_where_its_sender_waits(house: House) -> None:
    """And the first sender hears nothing of it."""
    first = send(house.app, "rpc-2", mock_delay=2)
    eventually(partial(house.phase, "rpc-2"))
    with another(house) as second, pytest.raises(Exception, match="has been used for another request"):
        send(second, "rpc-2", other=1).get(timeout=30)
    assert first.get(timeout=30) is not None
    assert house.submits() == 1


def test_each_send_of_an_id_is_answered_though_all_come_from_one_process(house: House) -> None:
    """While it runs and after its end; one for another request too, which gets the first one's end."""
    sent = [send(house.app, "rpc-3", mock_delay=2) for _ in range(3)]
    eventually(partial(house.phase, "rpc-3"))
    sent.append(send(house.app, "rpc-3", other=1))
    assert [one.get(timeout=20) for one in sent] == [{"mock_delay": 2}] * 4
    assert send(house.app, "rpc-3", mock_delay=2).get(timeout=20) == {"mock_delay": 2}
    assert send(house.app, "rpc-3", other=1).get(timeout=20) == {"mock_delay": 2}
    assert house.submits() == 1


@pytest.mark.parametrize(
    ("task", "options", "says"),
    [
        ("bridge.rum", {}, "task: is none"),
        ("bridge.run", {"serializer": "pickle"}, "content type: is not taken"),
        ("bridge.run", {"headers": {"retries": "x"}}, "headers.retries: must be"),
        ("bridge.run", {"headers": {"compression": "application/x-gzip"}}, "message: cannot be read"),
    ],
)
def test_who_sends_what_cannot_be_read_is_told_so(house: House, task: str, options: dict[str, Any], says: str) -> None:
    """As with every other result backend."""
    sent = house.app.send_task(task, kwargs={"input": {"n": 1}}, queue="bridge.run", **options)
    with pytest.raises(Exception, match=says):
        sent.get(timeout=20)
