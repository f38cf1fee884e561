"""The listing: which requests there are, the newest first, in bounded walks; and how the endpoints stood."""

from __future__ import annotations

import pytest

from bridge.engine.upkeep.listing import Listing
from bridge.job.document import Held
from bridge.job.record import Long, Record, altered
from bridge.ledger import Ledger
from bridge.ledger.endpoints import samples
from bridge.ledger.endpoints.samples import Sample
from bridge.ledger.queries import listing
from bridge.ledger.queries.listing import Wanted
from bridge.ledger.records.write import Build


def born(ledger: Ledger, name: str, **more: object) -> tuple[str, Build]:
    """A request for `accept_many`."""
    record = altered(Record(id=name, endpoint="demo", endpoint_id="demo", door="json", fingerprint="f"), **more)
    return name, lambda now, wish: ledger.table.accept(Held(record, {Long.INPUT: '{"a":1}'}), now, wish)


def ids(page: listing.Page) -> list[str]:
    """Of a page."""
    return [held.record.id for held in page.held]


def all_pages(ledger: Ledger, wanted: Wanted, **how: int) -> list[str]:
    """To the end."""
    found, after = list[str](), ""
    while True:
        page = listing.page(ledger, wanted, after=after, **how)
        found += ids(page)
        if not (after := page.goes_on):
            return found


def test_pages_give_each_request_once_the_newest_first_also_of_one_millisecond(ledger: Ledger) -> None:
    """A hundred come in one round trip; three a page."""
    names = [f"r{n:03}" for n in range(100)]
    ledger.accept_many([born(ledger, name) for name in names])
    found = all_pages(ledger, Wanted(), count=3)
    assert sorted(found) == names
    times = [held.record.accepted_at for held in ledger.load_many(found).values()]
    assert times == sorted(times, reverse=True) or max(times) - min(times) < 50


def test_a_page_goes_on_where_it_stopped_while_others_come_and_go(ledger: Ledger) -> None:
    """New requests before it, and the last one of the page gone: nothing is told twice, nothing is left out."""
    ledger.accept_many([born(ledger, f"a{n}") for n in range(10)])
    whole = all_pages(ledger, Wanted())
    first = listing.page(ledger, Wanted(), count=4)
    ledger.accept_many([born(ledger, f"new{n}") for n in range(5)])
    rest, after = list[str](), first.goes_on
    while after:
        page = listing.page(ledger, Wanted(), after=after, count=4)
        rest, after = rest + ids(page), page.goes_on
    assert ids(first) + rest == whole


def test_each_filter_leaves_only_what_it_names(ledger: Ledger) -> None:
    """Endpoint, tenant, phase, status, task, door, and several at once."""
    ledger.accept_many(
        [
            born(ledger, "one", tenant="acme", replaces="task-1"),
            born(ledger, "two", tenant="acme", endpoint="other"),
            born(ledger, "three", tenant="zeta", door="celery"),
        ]
    )
    for where, wanted in (
        ({"tenant": ["acme"]}, {"one", "two"}),
        ({"endpoint": ["other"]}, {"two"}),
        ({"door": ["celery"]}, {"three"}),
        ({"phase": ["ACCEPTED", "TRACKED"]}, {"one", "two", "three"}),
        ({"phase": ["CLOSED"]}, set()),
        ({"status": ["ACCEPTED"], "tenant": ["zeta"]}, {"three"}),
        ({"task": ["task-1"]}, {"one"}),
        ({"tenant": ["ac"]}, set()),
    ):
        assert set(all_pages(ledger, Wanted(where=where))) == wanted, where
    assert set(all_pages(ledger, Wanted(text="t"))) == {"two", "three"}
    assert all_pages(ledger, Wanted(text="task-1")) == ["one"]  # the task that it has replaced


@pytest.mark.parametrize("most", [listing.LIVE_MAX, 0])
def test_those_that_have_not_ended_are_found_however_many_have(
    most: int, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the sets where they stand; where there are too many, by a walk. Both find the same, page by page."""
    monkeypatch.setattr(listing, "LIVE_MAX", most)
    ledger.accept_many([born(ledger, f"old{n}", tenant="acme") for n in range(7)])
    wish = {"by": "x", "door": "y"}
    for n in range(30):
        name, build = born(ledger, f"ended{n}")
        ledger.accept(name, lambda now, _, build=build: build(now, wish))  # type: ignore[misc]
    waiting = Wanted(where={"phase": ["ACCEPTED", "TRACKED"]})
    assert sorted(all_pages(ledger, waiting, count=2)) == [f"old{n}" for n in range(7)]
    assert all_pages(ledger, Wanted(text="old3", where={"phase": ["ACCEPTED"], "tenant": ["acme"]})) == ["old3"]
    assert all_pages(ledger, Wanted(where={"status": ["IN_QUEUE"]})) == []
    assert len(all_pages(ledger, Wanted(where={"phase": ["CLOSED"]}))) == 30


def test_times_bound_the_walk_at_both_ends(ledger: Ledger) -> None:
    """Inclusive; what lies outside is not looked at."""
    ledger.accept_many([born(ledger, name) for name in ("a", "b", "c", "d")])
    key = ledger.names.key("accepted")
    ledger.client.zadd(key, {"a": 1_000, "b": 2_000, "c": 3_000, "d": 4_000})
    page = listing.page(ledger, Wanted(since=2_000, until=3_000))
    assert (ids(page), page.looked_at) == (["c", "b"], 2)
    assert ids(listing.page(ledger, Wanted(until=1_999))) == ["a"]


def test_a_search_without_a_hit_stops_at_its_bound_and_can_go_on(ledger: Ledger) -> None:
    """A page may be empty and still have more behind it."""
    ledger.accept_many([born(ledger, f"r{n:04}") for n in range(2_500)])
    page = listing.page(ledger, Wanted(text="r0000"), most=1_000)
    assert (page.held, page.looked_at, bool(page.goes_on)) == ([], 1_000, True)
    assert all_pages(ledger, Wanted(text="r0000"), most=1_000) == ["r0000"]


def test_what_is_gone_is_passed_over_and_then_tidied_away(ledger: Ledger) -> None:
    """Rows go by their retention, without a word to anybody."""
    ledger.accept_many([born(ledger, f"r{n}") for n in range(20)])
    gone = [ledger.names.row(f"r{n}") for n in range(0, 20, 2)]
    ledger.client.delete(*gone)
    assert set(all_pages(ledger, Wanted())) == {f"r{n}" for n in range(1, 20, 2)}
    assert listing.kept(ledger) == 20
    rank, removed = 0, 0
    while True:
        rank, now = listing.tidy(ledger, rank, 3)
        removed += now
        if not rank:
            break
    assert (removed, listing.kept(ledger)) == (10, 10)


def test_requests_of_an_older_version_enter_the_listing_when_an_engine_starts(ledger: Ledger) -> None:
    """It knew no listing; where they stood there already, nothing is changed."""
    ledger.accept_many([born(ledger, f"r{n}") for n in range(30)])
    key = ledger.names.key("accepted")
    before = ledger.client.zrange(key, 0, -1)
    ledger.client.zrem(key, *[f"r{n}" for n in range(0, 30, 3)])
    upkeep = Listing(ledger)
    while not upkeep._filled:
        upkeep.once()
    assert sorted(ledger.client.zrange(key, 0, -1)) == sorted(before)
    assert set(all_pages(ledger, Wanted())) == {f"r{n}" for n in range(30)}


def test_a_listing_that_somebody_has_edited_into_another_type_refuses_no_request(ledger: Ledger) -> None:
    """Accepting goes on; only who lists is told."""
    ledger.client.set(ledger.names.key("accepted"), "x")
    assert ledger.accept_many([born(ledger, "a"), born(ledger, "b")])[1].kind == "created"
    assert ledger.load("a") is not None


def test_the_last_minute_counts_what_ended_before_anybody_has_written_it_down(ledger: Ledger) -> None:
    """An endpoint's first requests may have ended when the first turn comes, 20 s later."""

    def ended(name: str) -> tuple[str, Build]:
        record = Record(id=name, endpoint="demo", endpoint_id="demo", door="json", fingerprint="f")
        return name, lambda now, _wish: ledger.table.reject(Held(record, {}), now, "input", "input: no")

    def a_minute() -> float:
        return samples.rates(samples.last_hour(ledger, "demo"), samples.now(ledger, "demo")).ended

    ledger.accept_many([ended(f"a{n}") for n in range(4)])
    assert a_minute() == 4
    assert samples.take(ledger)
    assert a_minute() == 4
    ledger.accept_many([ended(f"b{n}") for n in range(3)])
    assert a_minute() == 7


@pytest.mark.parametrize(
    ("at_s", "told"), [(100, 30), (110, 15), (120, 0)], ids=["all within", "half of them", "a minute ago"]
)
def test_a_minute_is_a_minute_wherever_the_turns_fall(at_s: int, told: float) -> None:
    """Of what ended between two turns a part is counted; 30 have, from 40 s to 60 s."""
    line = [Sample(n * 1000, 30, 0 if n < 60 else 30, 0, 0) for n in range(0, at_s, 20)]
    assert samples.rates(line, Sample(at_s * 1000, 30, 30, 0, 0)).ended == told


def test_what_has_ended_since_the_engines_run_again_counts_whole() -> None:
    """Nobody has written for ten minutes, and nothing ended then."""
    line = [Sample(0, 50, 0, 0, 0), Sample(600_000, 50, 40, 0, 0)]
    assert samples.rates(line, Sample(610_000, 50, 50, 0, 0)).ended == 50


def test_samples_make_rates_and_one_engine_takes_them_for_all(ledger: Ledger) -> None:
    """What the counts have become since; a second taker within the turn writes nothing."""
    ledger.accept_many([born(ledger, "a")])
    assert samples.take(ledger)
    assert not samples.take(ledger)
    nothing, sample = samples.last_hour(ledger, "demo")
    assert (nothing.accepted, nothing.ended, nothing.waiting) == (0, 0, 0)
    assert (sample.accepted, sample.ended, sample.waiting) == (1, 0, 1)
    minute = 60_000
    line = [Sample(n * minute, 10 * n, 6 * n, 4 * n, 2) for n in range(60)]
    told = samples.rates(line, Sample(60 * minute, 600, 360, 240, 3))
    assert (told.accepted, told.ended) == (10, 6)
    assert (len(told.ended_history), told.ended_history[-1], told.waiting_history[-1]) == (60, 6, 240)
    assert told.ended_history[1:] == [6] * 59
