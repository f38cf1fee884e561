"""Commands to the bridge itself, by task or by JSON: the arguments of each, and the function that answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from bridge.job.request import check_request_id, rejected

if TYPE_CHECKING:
    from bridge.engine.control import Asker, Control


#: Arguments that are true or false; one that is false says nothing.
FLAGS = frozenset({"refresh", "pending", "content"})


def check_argument(field: str, value: object) -> None:
    """The type of one argument of a control task. Raises JobRejected."""
    if field == "where":
        _check_where(value)
    elif field in FLAGS:
        if not isinstance(value, bool):
            raise rejected(field, f"{field}: must be true or false")
    elif value is not None and not isinstance(value, str):
        raise rejected(field, f"{field}: must be a string")
    if field == "id":
        check_request_id(value)


def _check_where(value: object) -> None:
    if not isinstance(value, Mapping) or not value:
        raise rejected("where", "where: must be an object of metadata names and values, at least one")
    if not all(isinstance(name, str) and isinstance(item, str | int | float) for name, item in value.items()):
        raise rejected("where", "where: its values must be strings, numbers, true or false")


def _cancel(control: Control, kwargs: dict[str, Any], asker: Asker) -> Any:
    """Cancel a request (`id`), a bare job (`job_id` and `endpoint`), a Celery `group`, or `where` metadata says so."""
    where, group = kwargs.get("where"), kwargs.get("group")
    if where is None and group is None:
        kwargs = {name: value for name, value in kwargs.items() if name in _JOB}
        if kwargs.get("id") is not None and kwargs.get("job_id") is not None:
            raise rejected("id", "id: name either id, or job_id with endpoint")
        return control.cancel(**kwargs, asker=asker)
    if len([value for value in kwargs.values() if value is not None]) > 1:
        raise rejected("id", "id: name one of id, job_id with endpoint, group, where")
    return control.cancel_all(asker, where=where, group=group)


def _status(control: Control, kwargs: dict[str, Any], _asker: Asker) -> Any:
    """The document of a request."""
    return control.status(**kwargs)


def _retry(control: Control, kwargs: dict[str, Any], asker: Asker) -> Any:
    """Another round of a failed request."""
    return control.retry(**kwargs, asker=asker)


def _stream(control: Control, kwargs: dict[str, Any], _asker: Asker) -> Any:
    """Turn streaming on for a request that is under way."""
    if not kwargs.get("id"):
        raise rejected("id", "id: is required")
    return control.stream(id=kwargs["id"])


def _health(control: Control, kwargs: dict[str, Any], _asker: Asker) -> Any:
    """RunPod's counters and the bridge's own, with a verdict; all endpoints when none is named."""
    return control.health(**kwargs)


def _purge(control: Control, kwargs: dict[str, Any], asker: Asker) -> Any:
    """RunPod's purge-queue of one endpoint; running jobs go on."""
    if not kwargs.get("endpoint"):
        raise rejected("endpoint", "endpoint: is required: a purge clears the queue for everyone on the endpoint")
    return control.purge(kwargs["endpoint"], asker, pending=bool(kwargs.get("pending")))


def _pause(control: Control, kwargs: dict[str, Any], asker: Asker) -> Any:
    """No submit leaves for the endpoint until it is resumed."""
    return control.pause(_endpoint_of(kwargs), kwargs.get("reason"), asker)


def _resume(control: Control, kwargs: dict[str, Any], asker: Asker) -> Any:
    """Submits leave again."""
    return control.resume(_endpoint_of(kwargs), asker, kwargs.get("reason"))


def _endpoint_of(kwargs: dict[str, Any]) -> str:
    endpoint = kwargs.get("endpoint")
    if not endpoint:
        raise rejected("endpoint", "endpoint: is required")
    return str(endpoint)


_JOB = frozenset({"id", "job_id", "endpoint"})
COMMANDS: Mapping[str, tuple[Callable[..., Any], frozenset[str]]] = {
    "bridge.cancel": (_cancel, _JOB | {"group", "where"}),
    "bridge.status": (_status, _JOB | {"refresh", "content"}),
    "bridge.retry": (_retry, _JOB),
    "bridge.stream": (_stream, frozenset({"id"})),
    "bridge.health": (_health, frozenset({"endpoint"})),
    "bridge.purge": (_purge, frozenset({"endpoint", "pending"})),
    "bridge.pause": (_pause, frozenset({"endpoint", "reason"})),
    "bridge.resume": (_resume, frozenset({"endpoint", "reason"})),
}
