"""An output in pieces, on a real Redis: the bytes as they are, of one end and no other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bridge.errors import OutputUnavailable
from bridge.job.change import Rules
from bridge.job.document import Held
from bridge.job.record import Long, Record
from bridge.ledger import Ledger, Names, connect
from bridge.ledger.records import output

TEXT = '"' + "äß€𝄞" * 1_000 + '"'


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    """A ledger of its own database, with an ended request `r1` whose output is TEXT."""
    client = connect(redis_url)
    ledger = Ledger(client, Names(), Rules())
    held = Held(Record(id="r1", endpoint="demo", endpoint_id="demo", fingerprint="f"), {Long.INPUT: "{}"})
    ledger.accept("r1", lambda now, wish: ledger.table.accept(held, now, wish))
    client.hset(ledger.names.row("r1"), "te", "7")
    client.set(ledger.names.output("r1"), TEXT)
    yield ledger
    client.close()


@pytest.mark.parametrize("size", [1, 7, 4096, 1_000_000])
def test_pieces_are_the_whole_whatever_their_size(ledger: Ledger, size: int) -> None:
    """Also where a piece begins and ends within a character."""
    found = output.find(ledger, "r1")
    assert found is not None
    assert found.size == len(TEXT.encode())
    assert b"".join(output.pieces(ledger, "r1", found, size=size)).decode() == TEXT


def test_a_part_is_that_part(ledger: Ledger) -> None:
    """From a byte to a byte, as HTTP ranges ask; past the end there is nothing."""
    found = output.find(ledger, "r1")
    assert found is not None
    raw = TEXT.encode()
    assert b"".join(output.pieces(ledger, "r1", found, 5, 50, size=7)) == raw[5:50]
    assert b"".join(output.pieces(ledger, "r1", found, len(raw) - 3, 10**9)) == raw[-3:]
    assert b"".join(output.pieces(ledger, "r1", found, len(raw), 10**9)) == b""


def test_an_output_that_is_replaced_while_it_is_read_is_told(ledger: Ledger) -> None:
    """A retry or the retention in between: never half of one and half of another."""
    found = output.find(ledger, "r1")
    assert found is not None
    read = output.pieces(ledger, "r1", found, size=100)
    next(read)
    ledger.client.hset(ledger.names.row("r1"), mapping={"ro": "2", "te": "9"})
    with pytest.raises(OutputUnavailable, match="retried"):
        next(read)
    ledger.client.delete(ledger.names.output("r1"))
    assert output.find(ledger, "r1") is None
    assert output.find(ledger, "nobody") is None
