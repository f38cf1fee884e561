"""What can be read as an address, and the one spelling of its TLS option."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.redis.address import as_celery_has_it, as_redis_py_has_it, sentinels
from bridge.settings.addresses import fault_of, spelled, verifying
from bridge.settings.unknown_variables import overruling, strange_names
from bridge.telemetry import redact

GOOD = [
    "redis://127.0.0.1:6379/0",
    "redis://:p%2Fw@h:6379/1?socket_timeout=3",
    "rediss://u:p@ss@h/0?ssl_cert_reqs=required",
    "unix:///run/redis.sock?db=3",
    "redis+socket:///run/redis.sock?virtual_host=2",
    "amqp://u:p@h:5672//",
    "amqp://u:p@h/vhost",
    "amqps://h/%2F?heartbeat=3",
    "sentinel://h1:26379",
    "sentinel://:p%2Fw@h1:26379,h2/3?master_name=m",
    "sentinel://h1:26379/0;sentinel://h2:26379/0?master_name=m&ssl_cert_reqs=none",
    "db+postgresql://u:p%2Fw@h/db",
    "db+sqlite:////srv/me@office/results.db",
    "mongodb://h1:27017,h2:27017/celery",
    "cache+memcached://h1:11211;h2:11211/",
]


@pytest.mark.parametrize("url", GOOD)
def test_a_good_address_has_no_fault(url: str) -> None:
    """Of every kind that is in use."""
    assert fault_of(url) is None


def test_several_addresses_where_several_may_be() -> None:
    """A broker's failover list, Sentinels; a ledger is one server."""
    both = "amqp://u:p@h1//;amqp://u:p@h2//"
    assert fault_of(both, several=True) is None
    assert "one only" in str(fault_of(both))
    assert "%3B" in str(fault_of("amqp://u:a;b@h//", several=True))


@pytest.mark.parametrize(
    "url",
    [
        "sentinel://me:p%2Fw@h1:1,h2,h3:3/4?master_name=m&socket_timeout=2.5",
        "sentinel://me:p%2Fw@h1:1/4;sentinel://h2;sentinel://h3:3?master_name=m&socket_timeout=2.5",
    ],
)
def test_sentinels_are_read_in_both_spellings(url: str) -> None:
    """With commas, as most have it, or an address for each, as Celery has it: what one of them says holds for all."""
    found = sentinels(url)
    assert found.hosts == (("h1", 1), ("h2", 26379), ("h3", 3))
    assert found.master_name == "m"
    assert found.server == {"username": "me", "password": "p/w", "db": 4, "socket_timeout": 2.5}
    assert "p/w" not in repr(found)
    celerys, options, tls = as_celery_has_it(url)
    sign = "sentinel://me:p%2Fw@"
    assert celerys == f"{sign}h1:1/4;{sign}h2:26379/4;{sign}h3:3/4"
    assert options["master_name"] == "m"
    assert tls == {}


def test_tls_is_spoken_to_sentinels_and_server_alike() -> None:
    """Where the address has an option of it."""
    found = sentinels("sentinel://h/0?master_name=m&ssl_ca_certs=ca.pem&sentinel_password=s")
    assert found.tls == {"ssl_ca_certs": "ca.pem"}
    assert found.sentinels == {"ssl": True, "ssl_ca_certs": "ca.pem", "password": "s"}


@pytest.mark.parametrize("url", ["sentinel://h1:x", "sentinel://h1,h2/a", "sentinel://h1;redis://h2", "sentinel://"])
def test_sentinels_that_cannot_be_read(url: str) -> None:
    """A port that is none, a database that is none, a server of another kind, nobody."""
    assert fault_of(url) is not None


@pytest.mark.parametrize(
    ("ours", "celerys"),
    [
        ("unix:///run/redis.sock?db=3", "redis+socket:///run/redis.sock?virtual_host=3"),
        ("unix://:pw@/run/redis.sock", "redis+socket://:pw@/run/redis.sock"),
    ],
)
def test_a_socket_has_two_spellings(ours: str, celerys: str) -> None:
    """redis-py's and Celery's."""
    assert as_celery_has_it(ours)[0] == celerys
    assert as_redis_py_has_it(celerys) == ours


@given(
    scheme=st.sampled_from(["redis", "rediss", "amqp", "amqps", "pyamqp", "sentinel"]),
    left=st.text("abcxyz0189!$&*()=+~:@", min_size=1, max_size=9),
    sign=st.sampled_from("/?#"),
    right=st.text("abcxyz!$&*()+~", min_size=1, max_size=9),
)
def test_a_raw_password_is_refused_and_never_repeated(scheme: str, left: str, sign: str, right: str) -> None:
    """With a sign in it that ends the host's part of an address, wherever it stands."""
    fault = fault_of(f"{scheme}://user:{left}{sign}{right}@server:1234/0")
    assert fault is not None
    same = fault_of(f"{scheme}://user:A/B@server:1234/0")
    assert fault == same or "no number" in fault or fault.startswith("must name sentinels alone")


@pytest.mark.parametrize("word", ["CERT_NONE", "cert_none", "none", "None", "NONE"])
def test_every_spelling_of_a_certificates_check_is_one(word: str) -> None:
    """What redis-py, kombu and Celery's results all take."""
    assert spelled(f"rediss://h/0?ssl_cert_reqs={word}&a=b") == "rediss://h/0?ssl_cert_reqs=none&a=b"
    other = word.lower().replace("none", "required")
    assert spelled(f"rediss://h/0?a=b&ssl_cert_reqs={other}") == "rediss://h/0?a=b&ssl_cert_reqs=required"
    assert fault_of("rediss://h/0?ssl_cert_reqs=perhaps") is not None


def test_an_address_that_says_nothing_of_certificates_asks_for_them() -> None:
    """Whichever library opens it."""
    assert verifying("rediss://h/0") == "rediss://h/0?ssl_cert_reqs=required"
    assert verifying("rediss://h/0?a=b") == "rediss://h/0?a=b&ssl_cert_reqs=required"
    assert verifying("rediss://h/0?ssl_cert_reqs=none") == "rediss://h/0?ssl_cert_reqs=none"
    assert verifying("redis://h/0") == "redis://h/0"


def test_no_part_of_a_password_is_in_a_log() -> None:
    """Encoded or not."""
    for url in ("redis://u:pass/word@h:1/0", "amqp://u:pa@ss@h//", "sentinel://:pa?ss#w@h"):
        assert (
            redact("", f"broke: {url} today")
            == f"broke: {url.partition('://')[0]}://***@{url.rpartition('@')[2]} today"
        )
    assert redact("", "https://host/@user/x") == "https://host/@user/x"


def test_a_strange_name_is_told_with_the_nearest_right_one() -> None:
    """Not what Kubernetes puts there, and never a value."""
    found = strange_names({
        "BRIDGE_REDIS_URI": "x", "BRIDGE_LOG_JSON": "on", "BRIDGE_REDIS_URL_FILE": "/f", "BRIDGE_QQ": "1",
        "BRIDGE_SERVICE_HOST": "1", "BRIDGE_HTTP_SERVICE_PORT_METRICS": "1", "BRIDGE_PORT": "1", "PATH": "x",
    })  # fmt: skip
    assert found == [
        "BRIDGE_QQ is no setting of the bridge",
        "BRIDGE_REDIS_URI is no setting of the bridge; is it BRIDGE_REDIS_URL?",
    ]


def test_a_variable_of_celerys_that_would_move_workers_alone_is_told() -> None:
    """Celery takes it in place of ours: messages, or even the ledger, would be elsewhere than all else looks."""
    ours = {"CELERY_BROKER_URL": "redis://a/0", "CELERY_RESULT_BACKEND": "redis://a/1"}
    for name in ("BROKER_URL", "CELERY_BROKER", "RESULT_BACKEND"):
        (told,) = strange_names({**ours, name: "redis://:hush@b/0"})
        assert told.startswith(f"{name} differs from CELERY_")
        assert "hush" not in told
        assert overruling({name: "redis://b/0"})
    assert not overruling({**ours, "BROKER_URL": "redis://a/0", "RESULT_BACKEND": "redis://a/1"})
    assert not overruling({"BROKER_URL": "redis://b/0", "CELERY_BROKER_URL_FILE": "/run/secrets/broker"})
