"""What many rooms' tests use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bridge.job.change import Rules
from bridge.ledger import Ledger, Names, connect


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    """An empty one, in which no engine runs."""
    client = connect(redis_url)
    yield Ledger(client, Names(), Rules())
    client.close()
