"""What `callback` of a request may be."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.errors import JobRejected
from bridge.job.callback import host_of
from bridge.job.request import parse_run

GOOD = ["https://shop.example.com", "https://shop.example.com:8443/a/b%20c?token=x&y", "https://u:p@shop.example.com/",
        "https://[2606:4700::1111]/x", "HTTPS://Shop.Example.COM/x", "https://xn--bcher-kva.example/"]  # fmt: skip
BAD = [
    "http://shop.example.com/", "ftp://shop.example.com/", "//shop.example.com", "shop.example.com", "https://",
    "https:///x", "https://shop.example.com/#part", "https://shop.example.com/#", "https://shop .example.com",
    "https://shop.example.com/a b",
    "https://shop.example.com\\@evil.example/", "https://bücher.example/", "https://shop.example.com:0/",
    "https://shop.example.com:99999/", "https://shop.example.com:x/", "https://[::1", "https://[fe80::1%25eth0]/",
    "https://-a/",
    "https://shop.example.com/\r\nHost: evil", "https://%31.example/", "https://" + "a" * 2_100,
]  # fmt: skip


@pytest.mark.parametrize("url", GOOD)
def test_an_https_address_is_taken(url: str) -> None:
    """As it was given."""
    request = parse_run({"input": {"a": 1}, "callback": {"url": url, "events": ["started", "end"]}})
    assert request.callback is not None
    assert (request.callback.url, request.callback.events) == (url, ("started", "end"))


@pytest.mark.parametrize("url", BAD)
def test_what_is_no_https_address_is_refused_by_its_field(url: str) -> None:
    """And the address, which may hold secrets, is not repeated."""
    with pytest.raises(JobRejected) as caught:
        parse_run({"input": {"a": 1}, "callback": {"url": url}})
    assert caught.value.document["field"] == "callback.url"
    assert len(url) < len("https://x") or url not in str(caught.value)


@pytest.mark.parametrize(
    ("callback", "field"),
    [
        ("https://shop.example.com/", "callback"),
        ({}, "callback.url"),
        ({"url": 7}, "callback.url"),
        ({"url": GOOD[0], "secret": "x"}, "callback.secret"),
        ({"url": GOOD[0], "events": "end"}, "callback.events"),
        ({"url": GOOD[0], "events": []}, "callback.events"),
        ({"url": GOOD[0], "events": ["ended"]}, "callback.events"),
        ([GOOD[0]], "callback"),
    ],
)
def test_what_is_no_callback_is_refused_by_its_field(callback: Any, field: str) -> None:
    """Each with the rule it breaks."""
    with pytest.raises(JobRejected) as caught:
        parse_run({"input": {"a": 1}, "callback": callback})
    assert caught.value.document["field"] == field, str(caught.value)


def test_of_an_address_logs_show_the_host_alone() -> None:
    """User, password, path and query may all be secrets."""
    assert host_of("https://u:p@Shop.example.com/hooks/T0/secret?token=x") == "shop.example.com:443"
    assert host_of("https://[2606:4700::1111]:8443/") == "[2606:4700::1111]:8443"
