"""Everything that can be set, as one frozen object read from the environment and checked whole.

Every name is an environment variable in capitals (`bridge_redis_url` is `BRIDGE_REDIS_URL`); secrets may also
come from a file named by the same variable with `_FILE`. docs/configuration.md is written from this list.
"""

from __future__ import annotations

import json
import os
import re
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from bridge.errors import SettingsError
from bridge.redis.address import is_redis, is_sentinel, sentinels
from bridge.settings.addresses import fault_of, spelled, tls_fault_of
from bridge.settings.api import api_faults
from bridge.settings.callbacks import allowed_of, callback_faults
from bridge.settings.console import console_faults, header, networks
from bridge.validation import rule

ENDPOINT_WORD = re.compile(r"[A-Za-z0-9_\-]{1,64}")
NAMESPACE = re.compile(r"[A-Za-z0-9_\-]{1,32}")
#: Secrets, which may also come from a file.
FROM_FILES = (
    "runpod_api_key",
    "celery_broker_url",
    "celery_result_backend",
    "bridge_redis_url",
    "bridge_blob_options",
)
#: Of them those whose file must hold something: an empty one would lead to another server than the one that was meant.
ADDRESSES = ("celery_broker_url", "celery_result_backend", "bridge_redis_url")
PORT_MAX = 65_535
#: Of BRIDGE_BLOB_URL, by what stands behind the `://`: a folder of this machine, or a bucket.
_FOLDERS, _BUCKETS = ("file", "local"), ("s3", "s3a", "gs", "gcs")


def _switch(value: object) -> object:
    """`on` and `off` beside what pydantic reads as a bool."""
    return {"on": True, "off": False}.get(value.lower(), value) if isinstance(value, str) else value


def _endpoints(value: object) -> object:
    """`sdxl=abc123,whisper=def456,xyz` as names to ids; a bare word is its own id."""
    if not isinstance(value, str):
        return value
    found: dict[str, str] = {}
    for part in filter(None, (word.strip() for word in value.split(","))):
        name, named, endpoint_id = part.partition("=")
        name, endpoint_id = name.strip(), (endpoint_id if named else name).strip()
        for word in (name, endpoint_id):
            if not ENDPOINT_WORD.fullmatch(word):
                fault = f"{word!r} is no endpoint: 1 to 64 of A-Z a-z 0-9 _ -"
                raise ValueError(fault)
        if name in found:
            fault = f"{name!r} is named twice"
            raise ValueError(fault)
        found[name] = endpoint_id
    return found


def _object(value: object) -> object:
    """A JSON object."""
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value or "{}")
    except ValueError as error:
        fault = f"is not JSON: {error}"
        raise ValueError(fault) from None
    if not isinstance(found, dict):
        fault = "must be a JSON object"
        raise ValueError(fault)  # noqa: TRY004  (pydantic's way)
    return found


def _words(value: object) -> object:
    """Words with commas between them."""
    return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value


def _origins(value: object) -> object:
    """Origins of browser pages, or `*`, with commas between them."""
    if not isinstance(value, str):
        return value
    found = frozenset(word.strip() for word in value.split(",") if word.strip())
    for word in sorted(found):
        if word != "*" and not re.fullmatch(r"https?://[^/\s*]+", word):
            fault = f"{word!r} is no origin: write https://shop.example.com, without a path"
            raise ValueError(fault)
    return found


def _http_url(value: str | None) -> str | None:
    if value is not None and not re.match(r"https?://[^/\s]+", value):
        fault = "must begin with http:// or https:// and name a host"
        raise ValueError(fault)
    if "@" in (value or ""):
        fault = "must hold no user or password (RunPod takes its key in a header)"
        raise ValueError(fault)
    return value.rstrip("/") if value else None


def _bind(value: str) -> str:
    if value and not re.fullmatch(r"(\[[0-9A-Fa-f:]+\]|[^:\s]*):\d{1,5}", value):
        fault = "must be HOST:PORT, or empty for none"
        raise ValueError(fault)
    if value and int(value.rpartition(":")[2]) > PORT_MAX:
        fault = f"its port must be at most {PORT_MAX}"
        raise ValueError(fault)
    return value


def _allowed(value: str) -> str:
    allowed_of(value)
    return value


def _namespace(value: str) -> str:
    if not NAMESPACE.fullmatch(value):
        fault = "must be 1 to 32 of A-Z a-z 0-9 _ -"
        raise ValueError(fault)
    return value


Switch = Annotated[bool, BeforeValidator(_switch)]
Seconds = Annotated[float, Field(gt=0, le=366 * 24 * 3600)]
Count = Annotated[int, Field(ge=1)]
Bytes = Annotated[int, Field(ge=1024)]
OptionalPath = Annotated[Path | None, BeforeValidator(lambda value: value or None)]
Url = Annotated[str | None, AfterValidator(_http_url)]
Address = Annotated[str, AfterValidator(spelled)]
Network = IPv4Network | IPv6Network


class Settings(BaseSettings):
    """See docs/configuration.md. Build with `load()`, which reports every fault at once."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=False)

    # RunPod
    runpod_api_key: str = ""
    runpod_api_key_file: OptionalPath = None  # read again when it changes
    runpod_endpoint_id: str = ""
    runpod_endpoint_base_url: Annotated[str, AfterValidator(_http_url)] = "https://api.runpod.ai/v2"

    # Broker, results, ledger
    celery_broker_url: Address = "redis://127.0.0.1:6379/0"
    celery_result_backend: Address = ""
    bridge_redis_url: Address = ""
    bridge_namespace: Annotated[str, AfterValidator(_namespace)] = "_"
    bridge_celery_config: str = ""
    bridge_config_file: Path | None = None
    bridge_queue_type: Literal["classic", "quorum"] = "classic"
    bridge_default_queue: Annotated[str, Field(min_length=1, max_length=255)] = "celery"
    bridge_allow_eviction: Switch = False
    bridge_ledger_fsync: Literal["server", "wait"] = "server"

    # Requests
    bridge_endpoints: Annotated[dict[str, str], NoDecode, BeforeValidator(_endpoints)] = {}
    bridge_delivery: Literal["at_least_once", "at_most_once"] = "at_least_once"
    bridge_unanswered_grace_s: Seconds = 30.0
    bridge_batch_gather_s: Annotated[float, Field(ge=0, le=120)] = 5.0
    bridge_submits_max: Annotated[int, Field(ge=1, le=10)] = 2
    bridge_gate_max_s: Annotated[float, Field(ge=0)] = 0.0
    bridge_cancel_is_failure: Switch = False
    bridge_chord_abort: Switch = False
    bridge_reply_pattern: str = r"[A-Za-z0-9._:-]{1,255}"
    bridge_json_doors: Switch = True
    bridge_stream_idle_s: Seconds = 60.0
    bridge_results: Literal["unaddressed", "all", "off"] = "unaddressed"
    bridge_inline_limit: Bytes = 256 * 1024
    bridge_message_limit: Bytes = 8 * 1024 * 1024
    bridge_celery_output: Literal["content", "reference"] = "content"

    # Object store
    bridge_blob_url: str = ""
    bridge_blob_options: Annotated[dict[str, Any], NoDecode, BeforeValidator(_object)] = {}
    bridge_blob_timeout_s: Seconds = 10.0
    bridge_blob_link_s: Annotated[Seconds, Field(le=7 * 24 * 3600)] = 3600.0

    # What is kept, and how much
    bridge_retention_s: Seconds = 7 * 24 * 3600.0
    bridge_output_retention_s: Seconds = 24 * 3600.0
    bridge_id_memory_s: Seconds = 24 * 3600.0
    bridge_events_max: Count = 100_000
    bridge_events_bytes_max: Bytes = 256 * 1024 * 1024
    bridge_events_retention_s: Seconds = 7 * 24 * 3600.0
    bridge_chunk_events_max: Count = 10_000
    bridge_chunks_bytes_max: Bytes = 128 * 1024 * 1024
    bridge_outbox_max: Count = 50_000
    bridge_reply_patience_s: Seconds = 300.0
    bridge_wishes_max: Count = 100_000
    bridge_dead_max: Count = 10_000
    bridge_dead_bytes_max: Bytes = 64 * 1024 * 1024
    bridge_dead_retention_s: Seconds = 7 * 24 * 3600.0
    bridge_dead_originals: Switch = True
    bridge_redact: Annotated[frozenset[str], NoDecode, BeforeValidator(_words)] = frozenset()
    bridge_waiting_max: Count = 100_000
    bridge_scheduled_max: Count = 1_000_000
    bridge_waiting_bytes_max: Bytes = 512 * 1024 * 1024
    bridge_memory_ratio_max: Annotated[float, Field(gt=0, lt=1)] = 0.75

    # Engine
    bridge_engine: Switch = True
    bridge_lease_s: Seconds = 60.0
    bridge_submit_threads: Annotated[int, Field(ge=1, le=256)] = 64
    bridge_track_threads: Annotated[int, Field(ge=1, le=256)] = 64
    bridge_stream_threads: Annotated[int, Field(ge=1, le=400)] = 400
    bridge_sync_threads: Annotated[int, Field(ge=1, le=400)] = 32
    bridge_connect_timeout_s: Seconds = 3.05
    bridge_read_timeout_s: Seconds = 20.0
    bridge_stop_grace_s: Seconds = 20.0
    bridge_finish_resend_s: Seconds = 30.0
    bridge_finish_turn_s: Seconds = 60.0
    bridge_finish_turns_max: Count = 10
    bridge_one_cpu: Literal["auto", "on", "off"] = "auto"

    # HTTP
    bridge_http_bind: Annotated[str, AfterValidator(_bind)] = "127.0.0.1:9464"
    bridge_http_connections_max: Count = 256
    bridge_webhook_bind: Annotated[str, AfterValidator(_bind)] = ""
    bridge_webhook_base_url: Url = None
    bridge_api: Switch = False
    bridge_api_tokens_file: OptionalPath = None  # read again when it changes
    bridge_api_origins: Annotated[frozenset[str], NoDecode, BeforeValidator(_origins)] = frozenset()
    bridge_api_followers_max: Count = 1_000
    bridge_api_signed_s: Annotated[int, Field(ge=0, le=7 * 24 * 3600)] = 0

    # Callbacks
    bridge_callback_secret_file: OptionalPath = None  # read again when it changes
    bridge_callback_allow: Annotated[str, AfterValidator(_allowed)] = ""
    bridge_callback_ca_file: OptionalPath = None
    bridge_callback_threads: Annotated[int, Field(ge=1, le=256)] = 32
    bridge_callback_host_max: Annotated[int, Field(ge=1, le=256)] = 8
    bridge_callback_timeout_s: Seconds = 15.0
    bridge_callback_retry_s: Seconds = 5.0
    bridge_callback_patience_s: Seconds = 24 * 3600.0

    bridge_console: Switch = False
    bridge_console_password_file: OptionalPath = None  # read again when it changes
    bridge_console_user_header: Annotated[str, AfterValidator(header)] = ""
    bridge_console_proxies: Annotated[tuple[Network, ...], NoDecode, BeforeValidator(networks)] = Field(
        default="127.0.0.0/8,::1", validate_default=True
    )
    bridge_console_read_only: Switch = False
    bridge_console_content: Switch = False

    # Logs
    bridge_log_level: Literal["debug", "info", "warning", "error"] = "info"
    bridge_log_json: Switch = False
    bridge_otel: Switch = False

    @property
    def ledger_url(self) -> str:
        """The ledger's Redis: as set, else the result backend, else the broker, whichever is Redis; "" if none is."""
        return self._ledger[1]

    @property
    def ledger_variable(self) -> str:
        """Which variable names the ledger: what is wrong with its address is mended there."""
        return self._ledger[0]

    @property
    def _ledger(self) -> tuple[str, str]:
        for name in ("bridge_redis_url", "celery_result_backend", "celery_broker_url"):
            if is_redis(url := getattr(self, name)):
                return name.upper(), url
        return "BRIDGE_REDIS_URL", ""

    @property
    def result_backend_url(self) -> str:
        """Where Celery results go: as set, else the ledger's Redis."""
        return self.celery_result_backend or self.ledger_url

    @property
    def celery_limit(self) -> int:
        """Bytes of an output that Celery is given as it is; of a larger one it gets the reference."""
        return self.bridge_message_limit if self.bridge_celery_output == "content" else self.bridge_inline_limit

    @property
    def amqp(self) -> bool:
        """Whether the broker speaks AMQP (RabbitMQ)."""
        return self.celery_broker_url.startswith(("amqp", "pyamqp"))


def load(**overrides: Any) -> Settings:
    """Read and check the environment; `overrides` are for tests and the demo. Raises SettingsError with every fault."""
    faults: list[str] = []
    if "runpod_api_key" in overrides:
        overrides.setdefault("runpod_api_key_file", None)
    for name in FROM_FILES:
        path = os.environ.get(f"{name.upper()}_FILE")
        if path and name not in overrides:
            try:
                overrides[name] = Path(path).read_text().strip()
                if name in ADDRESSES and not overrides[name]:
                    del overrides[name]
                    faults.append(f"{name.upper()}_FILE: {path} is empty: put the address into it")
            except OSError as error:
                faults.append(f"{name.upper()}_FILE: cannot be read: {error.strerror}")
            except UnicodeDecodeError:
                faults.append(f"{name.upper()}_FILE: is no text")
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            variable = str(fault["loc"][0]).upper() if fault["loc"] else "settings"
            faults.append(f"{variable}: {rule(fault)}")
        raise SettingsError(*faults) from None
    faults += _cross_faults(settings)
    if faults:
        raise SettingsError(*faults)
    return settings


def _cross_faults(settings: Settings) -> list[str]:
    """What no field can tell alone."""
    faults = _address_faults(settings)
    if fault := _ledger_fault(settings, addresses_are_good=not faults):
        faults.append(f"BRIDGE_REDIS_URL: {fault}")
    faults += _endpoint_faults(settings)
    if settings.bridge_default_queue.startswith("bridge."):
        faults.append("BRIDGE_DEFAULT_QUEUE: is for other teams' tasks, and must not be a queue of the bridge's own")
    try:
        re.compile(settings.bridge_reply_pattern)
    except re.error as error:
        faults.append(f"BRIDGE_REPLY_PATTERN: is no regular expression: {error}")
    if settings.bridge_blob_url and (fault := _blob_fault(settings.bridge_blob_url)):
        faults.append(f"BRIDGE_BLOB_URL: {fault}")
    if settings.bridge_config_file is not None and not settings.bridge_config_file.is_file():
        faults.append(f"BRIDGE_CONFIG_FILE: there is no file {settings.bridge_config_file}")
    faults += callback_faults(
        settings.bridge_callback_secret_file,
        settings.bridge_callback_ca_file,
        settings.bridge_callback_timeout_s,
        settings.bridge_lease_s,
    )
    faults += _http_faults(settings)
    if settings.bridge_read_timeout_s + settings.bridge_connect_timeout_s + 5 > settings.bridge_lease_s:
        faults.append("BRIDGE_LEASE_S: must be over BRIDGE_CONNECT_TIMEOUT_S + BRIDGE_READ_TIMEOUT_S + 5")
    return faults


def _blob_fault(url: str) -> str | None:
    scheme, separator, place = url.partition("://")
    if not separator:
        return "must name a scheme, for example s3://bucket/outputs or file:///var/lib/bridge"
    if scheme in _FOLDERS and not place.startswith("/"):  # each process would have a folder of its own, where it runs
        return f"must name a folder from the root on, for example {scheme}:///var/lib/bridge"
    if scheme in _BUCKETS and not place.partition("/")[0]:
        return f"must name a bucket, for example {scheme}://bucket/outputs"
    return None


def _endpoint_faults(settings: Settings) -> list[str]:
    faults = []
    default = settings.runpod_endpoint_id
    if default and not ENDPOINT_WORD.fullmatch(default):
        faults.append("RUNPOD_ENDPOINT_ID: must be 1 to 64 of A-Z a-z 0-9 _ -")
    if fault := _not_a_queue(settings.runpod_endpoint_base_url):
        faults.append(f"RUNPOD_ENDPOINT_BASE_URL: {fault}")
    known = settings.bridge_endpoints
    in_file = settings.bridge_config_file is not None  # which may name more, and is looked at when it is read
    if default and known and not in_file and default not in known and default not in known.values():
        faults.append(f"RUNPOD_ENDPOINT_ID: {default!r} is not among BRIDGE_ENDPOINTS, which is an allow-list when set")
    return faults


def _not_a_queue(base_url: str) -> str | None:
    """A load-balancing endpoint has a host of its own, and no jobs: nothing of it could be watched."""
    host = re.match(r"https?://([^/:]+)", base_url)
    if host is None or not re.fullmatch(r"[a-z0-9\-]+\.api\.runpod\.ai", host[1].lower()):
        return None
    return (
        f"{host[1]} is a load-balancing endpoint, which has no queue and no job ids: the bridge works with queue-based "
        "endpoints, whose address is https://api.runpod.ai/v2"
    )


def _http_faults(settings: Settings) -> list[str]:
    faults: list[str] = []
    if settings.bridge_api:
        faults += api_faults(settings.bridge_http_bind, settings.bridge_api_tokens_file, settings.bridge_api_origins)
    if settings.bridge_console:
        faults += console_faults(
            settings.bridge_http_bind, settings.bridge_console_password_file, settings.bridge_console_user_header
        )
    return faults


def _ledger_fault(settings: Settings, *, addresses_are_good: bool) -> str | None:
    given = settings.bridge_redis_url
    if not settings.ledger_url:
        return (
            "is not set, and neither CELERY_RESULT_BACKEND nor CELERY_BROKER_URL is a Redis; "
            "the ledger needs one, for example redis://127.0.0.1:6379/1"
        )
    if given and not is_redis(given):
        return "must begin with redis://, rediss://, unix:// or sentinel://"
    if addresses_are_good and is_sentinel(settings.ledger_url) and not sentinels(settings.ledger_url).master_name:
        which = "" if given else "is not set, and the address of the broker or the results "
        return f"{which}names no master: sentinel://HOST:26379,HOST:26379/0?master_name=NAME"
    return None


def _address_faults(settings: Settings) -> list[str]:
    """Addresses that no library should be given, because it would tell half of the password."""
    found = {
        "CELERY_BROKER_URL": fault_of(settings.celery_broker_url, several=True),
        "BRIDGE_REDIS_URL": fault_of(settings.bridge_redis_url) if settings.bridge_redis_url else None,
    }
    if "://" in (results := settings.celery_result_backend):
        found["CELERY_RESULT_BACKEND"] = fault_of(results)
    readable = [variable for variable, fault in found.items() if not fault]
    found |= {variable: tls_fault_of(getattr(settings, variable.lower())) for variable in readable}
    if not any(found.values()) and settings.ledger_url and (fault := fault_of(settings.ledger_url)):
        found["BRIDGE_REDIS_URL"] = f"is not set, and the address of the broker or the results {fault}: set it"
    return [f"{variable}: {fault}" for variable, fault in found.items() if fault]
