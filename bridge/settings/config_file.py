"""Names for RunPod endpoints: which are allowed, which id and key each has, what its policy defaults are.

From `BRIDGE_ENDPOINTS` and the `[endpoints.NAME]` tables of `BRIDGE_CONFIG_FILE`, which is read again when it changes.
"""

from __future__ import annotations

import threading
import time
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from bridge.errors import SettingsError
from bridge.job.request import ENDPOINT, TENANT, Policy, S3Config, rejected
from bridge.settings import Settings
from bridge.settings.key_file import KeyFile
from bridge.telemetry import tell
from bridge.validation import rule

#: Seconds between looks at the file.
RELOAD_S = 2.0


OperationName = Literal["run", "runsync", "status", "stream", "cancel", "retry", "purge-queue", "health"]


class LimitRow(BaseModel):
    """What RunPod allows of one operation, where it departs from the table; None leaves the table's figure."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    calls: Annotated[int, Field(ge=1)] | None = None  # per 10 s
    concurrent: Annotated[int, Field(ge=1)] | None = None
    per_worker: Annotated[int, Field(ge=0)] | None = None  # calls per 10 s for each running RunPod worker


class Endpoint(BaseModel):
    """One endpoint as it is set. Requests, events and metrics speak its name; RunPod hears its id."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = ""
    id: Annotated[str, Field(pattern=f"^{ENDPOINT.pattern}$")] = ""
    api_key_file: Path | None = None
    policy: Policy = Policy()
    max_in_flight: Annotated[int, Field(ge=1)] | None = None
    max_waiting: Annotated[int, Field(ge=1)] | None = None
    limits: dict[OperationName, LimitRow] = {}
    gpu_price_per_s: Annotated[float, Field(gt=0)] | None = None  # of one RunPod worker, in any currency
    max_gpu_s_per_day: Annotated[float, Field(ge=0)] | None = None
    max_cost_per_day: Annotated[float, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _cost_needs_a_price(self) -> Endpoint:
        if self.max_cost_per_day is not None and self.gpu_price_per_s is None:
            raise ValueError("max_cost_per_day needs gpu_price_per_s")
        return self

    @property
    def ceiling_s(self) -> float | None:
        """Seconds of GPU time a day after which nothing more is submitted; None for no ceiling."""
        found = [self.max_gpu_s_per_day]
        if self.max_cost_per_day is not None and self.gpu_price_per_s is not None:
            found.append(self.max_cost_per_day / self.gpu_price_per_s)
        return min((ceiling for ceiling in found if ceiling is not None), default=None)


class Tenant(BaseModel):
    """One tenant's share (`metadata.tenant`); EVERY_TENANT's says what the others do not say themselves."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: Annotated[int, Field(ge=1, le=1000)] = 1
    max_in_flight: Annotated[int, Field(ge=1)] | None = None


#: The table `[tenants."*"]`.
EVERY_TENANT = "*"


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoints: dict[str, Endpoint] = {}
    tenants: dict[str, Tenant] = {}
    limits: dict[OperationName, LimitRow] = {}
    s3Config: dict[str, S3Config] = {}

    @field_validator("tenants")
    @classmethod
    def _can_be_tenants(cls, value: dict[str, Tenant]) -> dict[str, Tenant]:
        """A limit that no request would ever meet is none."""
        for name in value:
            if name != EVERY_TENANT and not TENANT.fullmatch(name):
                raise ValueError(f"{name!r} is no tenant: 1 to 40 of A-Z a-z 0-9 . _ -")
        return value


def _find(known: Mapping[str, Endpoint], word: str) -> Endpoint | None:
    """By name, else by id."""
    return known.get(word) or next((endpoint for endpoint in known.values() if endpoint.id == word), None)


class EndpointBook:
    """Looks up endpoints, tenants and named s3Configs; thread-safe."""

    def __init__(self, settings: Settings) -> None:
        """Raises SettingsError when the file is wrong; later edits that are wrong are told and ignored."""
        self._settings = settings
        self._lock = threading.Lock()
        self._looked = 0.0
        self._stamp: tuple[int, int] | None = None
        self._known: tuple[_File, Mapping[str, Endpoint]] | None = None  # `all`, and the file it was made from
        self._keys: dict[Path, KeyFile] = {}
        self._fault: str | None = None
        self._file = self._read() if settings.bridge_config_file else _File()
        default = settings.runpod_endpoint_id
        if default and not self._any_id and _find(self.all(), default) is None:
            raise SettingsError(
                f"RUNPOD_ENDPOINT_ID: {default!r} is not among BRIDGE_ENDPOINTS, which is an allow-list when set, "
                "and BRIDGE_CONFIG_FILE has no table for it"
            )

    @property
    def fault(self) -> str | None:
        """Why the file, as it is now, was not taken: the one that was read last stays in force."""
        self._reload()
        return self._fault

    def look(self) -> float:
        """Read the file if it has changed: what is wrong is told also while nothing comes. Returns seconds to wait."""
        self._reload()
        return RELOAD_S

    def resolve(self, name: str | None) -> Endpoint:
        """The endpoint of a request. Raises JobRejected naming the field and the rule."""
        self._reload()
        name = name or self._settings.runpod_endpoint_id
        if not name:
            raise rejected("endpoint", "endpoint: is required: no RUNPOD_ENDPOINT_ID is set as the default")
        if not ENDPOINT.fullmatch(name):
            raise rejected("endpoint", "endpoint: must be 1 to 64 of A-Z a-z 0-9 _ -")
        known = self.all()
        if (endpoint := _find(known, name)) is not None:
            return endpoint
        if not self._any_id:
            raise rejected("endpoint", f"endpoint: {name!r} is not allowed; allowed: {', '.join(sorted(known))}")
        return Endpoint(name=name, id=name)

    @property
    def _any_id(self) -> bool:
        """Whether an endpoint that no setting names may be used. BRIDGE_ENDPOINTS alone lists what is allowed."""
        return not self._settings.bridge_endpoints

    def all(self) -> Mapping[str, Endpoint]:
        """Every endpoint that is named in the settings. Asked for each call to RunPod, so it is made once a file."""
        file, known = self._file, self._known
        if known is None or known[0] is not file:
            known = self._known = (file, MappingProxyType(self._all(file)))
        return known[1]

    def _all(self, file: _File) -> dict[str, Endpoint]:
        found = {
            name: Endpoint(name=name, id=endpoint_id) for name, endpoint_id in self._settings.bridge_endpoints.items()
        }
        for name, endpoint in file.endpoints.items():
            before = found.get(name)
            endpoint_id = endpoint.id or (before.id if before else name)
            found[name] = endpoint.model_copy(update={"name": name, "id": endpoint_id})
        default = self._settings.runpod_endpoint_id
        if default and self._any_id and _find(found, default) is None:
            found[default] = Endpoint(name=default, id=default)
        return found

    def max_waiting(self, name: str) -> int | None:
        """How many accepted requests of one endpoint may wait; None for the rule that holds for all."""
        found = self._file.endpoints.get(name)
        return found.max_waiting if found else None

    def limit_rows(self, endpoint_id: str, op: str) -> list[LimitRow]:
        """What departs from the table for one operation: of all endpoints, then of this one."""
        rows = [self._file.limits.get(op)]  # type: ignore[call-overload]
        rows += [e.limits.get(op) for e in self.all().values() if e.id == endpoint_id]  # type: ignore[call-overload]
        return [row for row in rows if row is not None]

    def shares(self, endpoint: Endpoint) -> dict[str, Any]:
        """The caps and weights that submits of an endpoint are claimed under, as `Ledger.claim` takes them."""
        tenants = {
            name: {"weight": share.weight, **({"cap": share.max_in_flight} if share.max_in_flight else {})}
            for name in self._file.tenants
            for share in [self._tenant(name)]
        }
        caps = {endpoint.name: endpoint.max_in_flight} if endpoint.max_in_flight else {}
        return {**({"endpoints": caps} if caps else {}), **({"tenants": tenants} if tenants else {})}

    def tenant_cap(self, tenant: str) -> int | None:
        """How many jobs of a tenant may be in flight; None for any number."""
        return self._tenant(tenant).max_in_flight

    def _tenant(self, name: str) -> Tenant:
        """A tenant's share; what its own table does not say is as for every tenant."""
        every, own = self._file.tenants.get(EVERY_TENANT, Tenant()), self._file.tenants.get(name)
        return every.model_copy(update=own.model_dump(exclude_unset=True)) if own is not None else every

    def s3_config(self, given: S3Config | str | None) -> S3Config | None:
        """An s3Config as given, or by its name in the file (preferred: a name is no secret). Raises JobRejected."""
        if not isinstance(given, str):
            return given
        self._reload()
        if given not in self._file.s3Config:
            raise rejected("s3Config", f"s3Config: {given!r} is not in BRIDGE_CONFIG_FILE")
        return self._file.s3Config[given]

    def api_key(self, endpoint_name: str) -> str:
        """The key for an endpoint: its own file's, else RUNPOD_API_KEY (or its file). A rotation needs no restart.

        Raises OSError or ValueError when a file has never been readable.
        """
        file, first = self._key_file(endpoint_name), self._settings.runpod_api_key
        if file is None:
            return first
        try:
            return file.read()
        except (OSError, ValueError):
            if file.path == self._settings.runpod_api_key_file and first:  # it could be read at the start
                return first
            raise

    def stamp(self, endpoint_name: str) -> object:
        """Changes with the endpoint's id, and with its key where that comes from a file."""
        self._reload()
        endpoint, file = self.all().get(endpoint_name), self._key_file(endpoint_name)
        endpoint_id = endpoint.id if endpoint is not None else endpoint_name
        if file is None:
            return endpoint_id
        with suppress(OSError, ValueError):
            file.read()
        return endpoint_id, file.path, file.stamp

    def _key_file(self, endpoint_name: str) -> KeyFile | None:
        endpoint = self.all().get(endpoint_name)
        path = endpoint.api_key_file if endpoint is not None else None
        path = path or self._settings.runpod_api_key_file
        return self._keys.setdefault(path, KeyFile(path)) if path is not None else None

    @property
    def has_key(self) -> bool:
        """Whether there is a key for any endpoint."""
        return bool(self._settings.runpod_api_key) or any(one.api_key_file for one in self._file.endpoints.values())

    def _reload(self) -> None:
        path = self._settings.bridge_config_file
        if path is None or time.monotonic() - self._looked < RELOAD_S:
            return
        with self._lock:
            self._looked = time.monotonic()
            try:
                if self._stamp_of(path) == self._stamp:
                    return
                self._file, fault = self._read(), None
            except OSError as error:
                self._stamp = None  # one that comes back is read, even if it is the same
                fault = f"BRIDGE_CONFIG_FILE: {path}: {error}"
            except SettingsError as error:
                fault = "; ".join(error.faults)
            if fault != self._fault and fault is not None:
                tell("settings.not_taken", error=fault)
            elif fault is None:
                tell("settings.taken", file=str(path))
            self._fault = fault

    def _read(self) -> _File:
        path = self._settings.bridge_config_file
        assert path is not None  # noqa: S101  (callers have looked)
        self._stamp = self._stamp_of(path)
        try:
            return _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            self._stamp = None  # what is readable a moment later (a file that gets its mode behind its content) is read
            raise SettingsError(f"BRIDGE_CONFIG_FILE: {path}: {error}") from None
        except UnicodeDecodeError as error:
            raise SettingsError(f"BRIDGE_CONFIG_FILE: {path}: is no UTF-8 (byte {error.start})") from None
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise SettingsError(f"BRIDGE_CONFIG_FILE: {path}: {error}") from None
        except ValidationError as error:
            faults = [
                f"BRIDGE_CONFIG_FILE: {'.'.join(str(p) for p in fault['loc'] if p != '[key]')}: {rule(fault)}"
                for fault in error.errors(include_url=False)
            ]
            raise SettingsError(*faults) from None

    @staticmethod
    def _stamp_of(path: Path) -> tuple[int, int]:
        stat = path.stat()
        return stat.st_mtime_ns, stat.st_size
