"""A wrong setting is told by its name and the rule, in words of ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.errors import JobRejected, SettingsError
from bridge.settings import Settings, load
from bridge.settings.config_file import EndpointBook
from bridge.settings.key_file import KEY_MAX, KeyFile

FILE = {
    "[endpoints.a]\nmax_in_flight = 0": "endpoints.a.max_in_flight: must be at least 1",
    '[endpoints.a]\nmax_in_flight = "ten"': "endpoints.a.max_in_flight: must be a whole number",
    "[endpoints.a]\nmax_in_flght = 3": "endpoints.a.max_in_flght: is no setting; is it misspelled",
    "[endpoints.a]\ngpu_price_per_s = 0": "endpoints.a.gpu_price_per_s: must be over 0",
    '[endpoints.a]\nid = "a b"': "endpoints.a.id: must match",
    "endpoints = 3": "endpoints: must be a table",
    "[endpoints.a.policy]\nttl = 5": "endpoints.a.policy.ttl: must be at least 10000",
    "[endpoints.a]\nmax_cost_per_day = 3": "endpoints.a: max_cost_per_day needs gpu_price_per_s",
    "[limits]\nrunn = {calls = 3}": "limits.runn: must be 'run', 'runsync'",
    '[tenants."me@example.com"]\nmax_in_flight = 3': "tenants: 'me@example.com' is no tenant: 1 to 40 of",
    "[tenants.t]\nweight = 5000": "tenants.t.weight: must be at most 1000",
    "[tenants\nweight = 5": "bridge.toml",
}


def test_an_endpoint_without_a_queue_is_refused_in_words() -> None:
    """Load-balancing endpoints have hosts of their own, and no jobs that could be watched."""
    with pytest.raises(SettingsError, match="load-balancing endpoint, which has no queue"):
        load(runpod_endpoint_base_url="https://abc123.api.runpod.ai/v2", bridge_redis_url="redis://127.0.0.1:1/0")


@pytest.mark.parametrize(("text", "said"), FILE.items(), ids=list(FILE.values()))
def test_a_fault_of_the_file_names_place_and_rule(tmp_path: Path, text: str, said: str) -> None:
    """As a path through the tables."""
    path = tmp_path / "bridge.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        EndpointBook(Settings(bridge_config_file=path))
    told = str(caught.value)
    assert said in told
    assert not any(word in told for word in ("Input should", "Extra inputs", "pydantic", "valid "))


ENVIRONMENT = {
    "BRIDGE_LEASE_S": ("soon", "must be a number"),
    "BRIDGE_SUBMIT_THREADS": ("2.5", "must be a whole number"),
    "BRIDGE_ENGINE": ("maybe", "must be true or false"),
    "BRIDGE_LEDGER_FSYNC": ("never", "must be '"),
    "BRIDGE_HTTP_BIND": ("127.0.0.1:65536", "its port must be at most 65535"),
    "RUNPOD_ENDPOINT_BASE_URL": ("http://u:hush@:/%#?x@127.0.0.1/v2", "must hold no user or password"),
}


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_a_fault_of_the_environment_names_variable_and_rule(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """All at once, not one a start."""
    given, said = ENVIRONMENT[name]
    monkeypatch.setenv(name, given)
    with pytest.raises(SettingsError) as caught:
        load(bridge_redis_url="redis://127.0.0.1:1/0")
    assert any(fault.startswith(f"{name}: {said}") for fault in caught.value.faults)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://", "must name a bucket"),
        ("s3:///prefix", "must name a bucket"),
        ("gs://", "must name a bucket"),
        ("file://outputs", "must name a folder from the root on"),
        ("file://", "must name a folder from the root on"),
        ("/var/lib/bridge", "must name a scheme"),
    ],
)
def test_a_store_that_names_no_place_is_refused(url: str, said: str) -> None:
    """What a library makes of it is a folder where the process happens to run."""
    with pytest.raises(SettingsError) as caught:
        load(bridge_redis_url="redis://127.0.0.1:1/0", bridge_blob_url=url)
    assert [fault for fault in caught.value.faults if fault.startswith(f"BRIDGE_BLOB_URL: {said}")]


@pytest.mark.parametrize("name", ["CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "BRIDGE_REDIS_URL"])
def test_an_empty_file_for_an_address_is_refused_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Else the ledger would be another server, or ends would go nowhere."""
    (tmp_path / "empty").write_text("\n")
    monkeypatch.setenv(f"{name}_FILE", str(tmp_path / "empty"))
    monkeypatch.setenv(name, "redis://127.0.0.1:1/0")
    with pytest.raises(SettingsError) as caught:
        load()
    assert caught.value.faults == (f"{name}_FILE: {tmp_path / 'empty'} is empty: put the address into it",)


@pytest.mark.parametrize("name", ["CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "BRIDGE_REDIS_URL"])
@pytest.mark.parametrize("scheme", ["rediss", "sentinel"])
def test_a_file_of_tls_that_is_of_no_use_is_told_as_a_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, scheme: str
) -> None:
    """Libraries say of it that the server does not answer: who believes that starts the process again for ever."""
    (tmp_path / "words").write_text("no certificate")
    faults = {
        "ssl_ca_certs=/no/ca.pem": "its ssl_ca_certs cannot be read: No such file or directory",
        f"ssl_ca_certs={tmp_path}": "its ssl_ca_certs cannot be read: Is a directory",
        f"ssl_ca_certs={tmp_path}/words": "its ssl_ca_certs holds no certificates (PEM)",
        "ssl_certfile=/no/me.pem": "its ssl_certfile cannot be read: No such file or directory",
        "ssl_keyfile=/no/me.key": "its ssl_keyfile cannot be read: No such file or directory",
    }
    monkeypatch.setenv("BRIDGE_REDIS_URL", "redis://127.0.0.1:1/0")
    for option, said in faults.items():
        monkeypatch.setenv(name, f"{scheme}://127.0.0.1:1/0?master_name=m&{option}")
        with pytest.raises(SettingsError) as caught:
            load()
        assert f"{name}: {said}" in caught.value.faults


def test_authorities_of_receivers_that_cannot_be_read_are_told_as_a_setting(tmp_path: Path) -> None:
    """Not as a broker with which TLS failed."""
    path = tmp_path / "ca.pem"
    path.write_text("no certificate")
    with pytest.raises(SettingsError, match=r"BRIDGE_CALLBACK_CA_FILE: .*ca\.pem holds no certificates"):
        load(bridge_redis_url="redis://127.0.0.1:1/0", bridge_callback_ca_file=path)


def looked_at_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, EndpointBook]:
    """A file with the endpoint `good`, and a book that sees each change of it at once."""
    monkeypatch.setattr("bridge.settings.config_file.RELOAD_S", 0.0)
    path = tmp_path / "bridge.toml"
    path.write_text('[endpoints.good]\nid = "good"\n')
    return path, EndpointBook(Settings(bridge_config_file=path))


def test_a_file_that_is_no_text_is_told_at_start_and_changes_nothing_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last good one stays; a request that came meanwhile is not to blame."""
    path, book = looked_at_each_time(tmp_path, monkeypatch)
    path.write_bytes(b'[endpoints.good]\nid = "good"\n# caf\xe9\n')
    assert book.resolve("good").id == "good"
    assert "no UTF-8" in (book.fault or "")
    with pytest.raises(SettingsError, match="no UTF-8"):
        EndpointBook(Settings(bridge_config_file=path))


def test_a_change_of_the_file_is_told_once_whether_it_holds_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who edits it hears what was wrong, for as long as it is, and that the mended one was taken."""
    monkeypatch.setattr("bridge.settings.config_file.RELOAD_S", 0.0)
    heard: list[tuple[str, str]] = []
    module = "bridge.settings.config_file"
    monkeypatch.setattr(f"{module}.tell", lambda name, **fields: heard.append((name, fields.get("error", ""))))
    path = tmp_path / "bridge.toml"
    good, bad = '[endpoints.good]\nid = "good"\n', "[endpoints.good\n"
    path.write_text(good)
    book = EndpointBook(Settings(bridge_config_file=path))
    path.write_text(bad)
    for _ in range(3):
        assert book.resolve("good").id == "good"
        assert "']'" in (book.fault or "")
    assert [name for name, _ in heard] == ["settings.not_taken"]
    assert "bridge.toml" in heard[0][1]
    path.write_text(good + "max_in_flight = 3\n")
    assert book.resolve("good").max_in_flight == 3
    assert not book.fault
    path.unlink()
    assert book.resolve("good").max_in_flight == 3
    assert "No such file" in str(book.fault)
    assert [name for name, _ in heard] == ["settings.not_taken", "settings.taken", "settings.not_taken"]


def test_who_asks_for_the_fault_of_the_file_hears_that_of_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`/readyz` asks, whether or not a request has come since."""
    path, book = looked_at_each_time(tmp_path, monkeypatch)
    path.write_text("[endpoints.good\n")
    assert "']'" in (book.fault or "")


def test_a_file_that_may_be_read_only_a_moment_later_is_read_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mode came behind its content: neither its size nor its time of change says so."""
    path, book = looked_at_each_time(tmp_path, monkeypatch)
    path.write_text('[endpoints.good]\nid = "another"\n')
    with monkeypatch.context() as unreadable:

        def refused(*_: object, **__: object) -> str:
            raise PermissionError(13, "Permission denied")

        unreadable.setattr(Path, "read_text", refused)
        assert book.resolve("good").id == "good"
        assert "Permission denied" in (book.fault or "")
    assert book.resolve("good").id == "another"
    assert not book.fault


def test_the_stamp_of_an_endpoint_changes_with_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By it a closed gate knows that something was mended here."""
    monkeypatch.setattr("bridge.settings.config_file.RELOAD_S", 0.0)
    path = tmp_path / "bridge.toml"
    path.write_text('[endpoints.a]\nid = "one"\n[endpoints.b]\nid = "two"\n')
    book = EndpointBook(Settings(bridge_config_file=path))
    before = book.stamp("a"), book.stamp("b")
    path.write_text('[endpoints.a]\nid = "three"\n[endpoints.b]\nid = "two"\n')
    assert (book.stamp("a") != before[0], book.stamp("b") == before[1]) == (True, True)


def test_a_key_file_that_never_ends_is_read_to_a_bound() -> None:
    """/dev/zero is no key, and no reason to hang."""
    assert len(KeyFile(Path("/dev/zero")).read()) == KEY_MAX


def test_a_table_for_one_endpoint_forbids_no_other(tmp_path: Path) -> None:
    """Who names a second endpoint in the file goes on using the first. BRIDGE_ENDPOINTS alone lists what is allowed."""
    path = tmp_path / "bridge.toml"
    path.write_text('[endpoints.big]\nid = "big-id"\nmax_in_flight = 3\n')
    book = EndpointBook(Settings(bridge_config_file=path, runpod_endpoint_id="first"))
    assert (book.resolve(None).id, book.resolve("big").id, book.resolve("other").id) == ("first", "big-id", "other")
    assert set(book.all()) == {"first", "big"}
    by_id = EndpointBook(Settings(bridge_config_file=path, runpod_endpoint_id="big-id"))
    assert by_id.resolve(None).max_in_flight == 3
    assert set(by_id.all()) == {"big"}
    listed = EndpointBook(Settings(bridge_config_file=path, bridge_endpoints={"sdxl": "abc"}))
    assert listed.resolve("big").id == "big-id"
    with pytest.raises(JobRejected, match="'other' is not allowed; allowed: big, sdxl"):
        listed.resolve("other")


def test_the_default_may_stand_in_the_file_beside_a_list(tmp_path: Path) -> None:
    """One that stands in neither is a fault at the start, and not of each request."""
    path = tmp_path / "bridge.toml"
    path.write_text('[endpoints.big]\nid = "big-id"\n')
    for default in ("big", "big-id", "sdxl"):
        settings = load(
            bridge_redis_url="redis://127.0.0.1:1/0",
            bridge_config_file=path,
            bridge_endpoints={"sdxl": "abc"},
            runpod_endpoint_id=default,
        )
        assert EndpointBook(settings).resolve(None).name == ("sdxl" if default == "sdxl" else "big")
    with pytest.raises(SettingsError, match="RUNPOD_ENDPOINT_ID: 'none' is not among BRIDGE_ENDPOINTS"):
        EndpointBook(settings.model_copy(update={"runpod_endpoint_id": "none"}))


@pytest.mark.parametrize("listed", ["sdxl=", "sdxl= ", "whisper=def,sdxl="])
def test_a_name_without_its_endpoints_id_is_a_fault(listed: str) -> None:
    """As of a variable that was not set where the list was written; only a word alone is name and id."""
    with pytest.raises(SettingsError, match="BRIDGE_ENDPOINTS: '' is no endpoint"):
        load(bridge_endpoints=listed, bridge_redis_url="redis://127.0.0.1:1/0")
