"""The pages of docs/reference, written from the code: `scripts/docs write`; a test holds them equal (`--check`)."""

from __future__ import annotations

import ast
import inspect
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from bridge import __version__, errors
from bridge.cli import VERBS, cli
from bridge.cli.exit_codes import ExitCode
from bridge.doors.http.problem import REASONS
from bridge.job import enums
from bridge.job.contract.models import schemas
from bridge.telemetry.catalogue import CATALOGUE
from bridge.telemetry.metrics import REGISTRY

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "reference"
MADE = "<!-- Made from the code by `scripts/docs write`; changes by hand are lost. -->\n\n"


def row(*cells: object) -> str:
    """One line of a table."""
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |\n"


def table(*heads: str) -> str:
    """The head of a table."""
    return row(*heads) + "|" + "---|" * len(heads) + "\n"


# Commands


def command_pages() -> str:
    """`bridge` and each of its verbs, as `--help` shows them."""
    text = "# Commands\n\nThe command `bridge` and its verbs, as `bridge VERB --help` shows them. Most print JSON with `--json`.\n\n"
    text += table("command", "what it does")
    text += "".join(
        row(f"[`bridge {name}`](#bridge-{name})", says.replace("\b", "")) for name, (_, says) in VERBS.items()
    )
    text += "\n## Exit codes\n\n" + table("code", "name", "when")
    text += "".join(row(code.value, code.name, EXITS[code]) for code in ExitCode)
    context = click.Context(cli, info_name="bridge")
    for name in VERBS:
        command = cli.get_command(context, name)
        assert command is not None  # noqa: S101  (VERBS says so)
        text += f"\n## bridge {name}\n" + "".join(helps(command, f"bridge {name}", context))
    return text


#: In the words of the pages; a new code has to be told here.
EXITS = {
    ExitCode.OK: "done; the request that was waited for has completed",
    ExitCode.CRASHED: "a fault of the bridge itself; a traceback follows",
    ExitCode.USAGE: "the command was used wrongly",
    ExitCode.REJECTED: "the request or command was refused, or the request that was waited for ended REJECTED",
    ExitCode.FAILED: "the request ended FAILED; of a batch, some lines did not complete; `schema --check` found a difference",
    ExitCode.TIMED_OUT: "the request ended TIMED_OUT",
    ExitCode.CANCELLED: "the request ended CANCELLED",
    ExitCode.LOST: "the request ended LOST",
    ExitCode.UNKNOWN: "the bridge knows no such request",
    ExitCode.UNAVAILABLE: "Redis, the broker or RunPod does not answer, or is busy: try again",
    ExitCode.UNHEALTHY: "`check` has found a FAULT, or `health` a verdict other than `ok`, `cold` and `paused`",
    ExitCode.SETTINGS: "the settings cannot be used, or the ledger was written by a newer version",
    ExitCode.STOPPED: "stopped by Ctrl-C",
}


def helps(command: click.Command, path: str, parent: click.Context) -> Iterator[str]:
    """The help of a command and of those below it."""
    context = click.Context(command, info_name=path.rpartition(" ")[2], parent=parent, max_content_width=100)
    context.terminal_width = 100
    told = command.get_help(context) if "--help" in context.help_option_names else command.help
    yield f"\n```text\n{inspect.cleandoc(told or '')}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None  # noqa: S101
            yield f"\n### {path} {name}\n"
            yield from helps(found, f"{path} {name}", context)


# Metrics


def gauges() -> Iterator[tuple[str, str, str]]:
    """Name, help and labels of what is read from the ledger, wherever code yields it."""
    for path in sorted((ROOT / "bridge").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Yield) and isinstance(node.value, ast.Tuple):
                name, *rest = node.value.elts
                if isinstance(name, ast.Constant) and str(name.value).startswith("bridge_"):
                    labels = rest[1].keys if isinstance(rest[1], ast.Dict) else []
                    named = [ast.literal_eval(label) for label in labels if label is not None]
                    yield name.value, ast.literal_eval(rest[0]), ", ".join(f"`{label}`" for label in named)


def metric_page() -> str:
    """What /metrics tells."""
    text = (
        "# Metrics\n\n`/metrics` on `BRIDGE_HTTP_BIND` serves these for Prometheus. Which of them to watch, and when to look: "
        "[operations](../operations.md#health).\n\n## Read from the ledger\n\nGauges of the whole bridge: every process tells "
        "the same value, so aggregate with `max by`, never `sum`.\n\n"
    )
    text += table("metric", "what it is", "labels")
    text += "".join(row(f"`{name}`", says, labels) for name, says, labels in dict.fromkeys(gauges()))
    text += "\n## Counted by a process\n\nEach worker counts for itself (with prefork, its children included): `sum by`.\n\n"
    text += table("metric", "what it is", "kind", "labels")
    (counted,) = (found for found in REGISTRY._collector_to_names if hasattr(found, "calls"))  # noqa: SLF001
    for metric in vars(counted).values():
        kind = metric._type  # noqa: SLF001
        name = metric._name + ("_total" if kind == "counter" else "")  # noqa: SLF001
        labels = ", ".join(f"`{label}`" for label in metric._labelnames)  # noqa: SLF001
        text += row(f"`{name}`", metric._documentation, kind, labels)  # noqa: SLF001
    return text


# Log lines


def log_page() -> str:
    """The catalogue of what is told."""
    text = (
        "# Log lines\n\nEach line of the bridge's log has a name, which is what to search for; with `BRIDGE_LOG_JSON=on` it is the field "
        "`event`. ERROR: somebody should act. WARNING: worth a look when it repeats. `BRIDGE_LOG_LEVEL` chooses how much is told.\n\n"
    )
    text += table("name", "level", "what it says")
    return text + "".join(
        row(f"`{name}`", logging.getLevelName(level), says) for name, (level, says) in sorted(CATALOGUE.items())
    )


# Events


def event_page() -> str:
    """What is told of requests and endpoints."""
    event = schemas()["event"]
    text = (
        "# Events\n\nCloudEvents, in the order in which a request meets them. Where they are read, and what holds of order and copies: "
        "[services](../services.md#what-comes-back). The JSON Schemas are [event](../schema/event.json) and "
        "[endpoint-event](../schema/endpoint-event.json).\n\n## Of a request\n\n`subject` is the request's id.\n\n"
    )
    text += table("type", "when", "`data`")
    for name in enums.EventName:
        wanted = f"bridge.job.{name.value}"
        for part in event["$defs"].values():
            if wanted in str(part.get("properties", {}).get("type", "")).split("'"):
                data = part["properties"]["data"]["$ref"].rpartition("/")[2]
                text += row(f"`{wanted}`", part["description"], f"[{data}](#{data.lower()})")
    text += "\n## Of an endpoint\n\n`subject` is the endpoint; see [control](../control.md#events-of-endpoints).\n\n"
    text += table("type", "when")
    for part in schemas()["endpoint-event"]["$defs"].values():
        if "type" in part.get("properties", {}):
            names = re.findall(r"bridge\.\w+\.\w+", str(part["properties"]["type"]))
            text += row(", ".join(f"`{name}`" for name in names), part.get("description", ""))
    text += "\n## What `data` holds\n"
    for name, part in event["$defs"].items():
        if name.endswith("Event") or "properties" not in part:
            continue
        text += f"\n### {name}\n\n{part.get('description', '')}\n\n" + table("name", "type", "meaning")
        text += "".join(
            row(f"`{field}`", kind(spec), spec.get("description", "")) for field, spec in part["properties"].items()
        )
    return text


def kind(spec: dict[str, Any]) -> str:
    """The type of a field, for people."""
    if "$ref" in spec:
        name = spec["$ref"].rpartition("/")[2]
        return f"[{name}](errors.md#why-a-request-ended)" if name == "Reason" else f"[{name}](#{name.lower()})"
    if "anyOf" in spec:
        return " or ".join(kind(one) for one in spec["anyOf"])
    if "const" in spec:
        return f"`{spec['const']}`"
    if "enum" in spec:
        return ", ".join(f"`{one}`" for one in spec["enum"])
    if spec.get("type") == "array":
        return f"list of {kind(spec['items'])}" if spec.get("items") else "list"
    return str(spec.get("type", "any"))


# Errors

#: What `reason` in a document means, in the words of the pages.
ENDS = {
    enums.Reason.HANDLER_ERROR: "FAILED: the handler raised or returned an error; `error` has it",
    enums.Reason.EXECUTION_TIMEOUT: "FAILED: the job ran longer than RunPod's `executionTimeout`",
    enums.Reason.WORKER_LOST: "FAILED: RunPod lost the RunPod worker that ran the job",
    enums.Reason.TTL_EXPIRED: "TIMED_OUT: RunPod's `ttl` passed",
    enums.Reason.TIMEOUT: "TIMED_OUT: the request's own `timeout` passed",
    enums.Reason.QUEUE_TIMEOUT: "TIMED_OUT: the job had not started within `queue_timeout`",
    enums.Reason.CANCELLED: "CANCELLED: somebody cancelled it",
    enums.Reason.PURGED: "CANCELLED: it stood in a queue that was purged",
    enums.Reason.UNANSWERED: "LOST: RunPod's answer to the submit was lost, and no job turned up",
    enums.Reason.VANISHED: "LOST: RunPod no longer knows the job, and nothing explains why",
    enums.Reason.STUCK: "LOST: RunPod says IN_PROGRESS and its `executionTime` has stood still for ten minutes, or `ttl` passed ten minutes ago and no end is told",
    enums.Reason.RESULT_EXPIRED: "LOST: RunPod forgot the result before it could be fetched",
    enums.Reason.UNREADABLE: "LOST: RunPod's answers about the job could not be read",
    enums.Reason.UNDELIVERABLE: "the end, or what follows it, could not be delivered",
    enums.Reason.ID_CONFLICT: "REJECTED: the id was used for another request",
    enums.Reason.REJECTED: "REJECTED: a rule is broken (`field` and `error` say which), or RunPod refused the job",
}


def comments(module: ModuleType, name: str) -> dict[str, str]:
    """The comment behind each word of an enum."""
    source = inspect.getsource(getattr(module, name))
    return dict(re.findall(r'^    \w+ = "(\w+)"(?:  # (.+))?$', source, re.MULTILINE))


def error_page() -> str:
    """What is raised and answered."""
    text = (
        "# Errors\n\n## What `get()` raises\n\nThe classes are those of `bridge.errors`; `args` is `(message, document)`. A process that has "
        "not imported `bridge.errors` gets Celery's stand-in of the same name ([failures](../quickstart-celery.md#failures)).\n\n"
    )
    text += table("class", "when")
    for found in [errors.JobError, *errors.JobError.__subclasses__()]:
        text += row(f"`{found.__name__}`", (found.__doc__ or "").split("\n\n")[0].strip())
    text += "\n## Why a request ended\n\n`reason` of a document, an event and `bridge_ended_total`:\n\n" + table(
        "reason", "meaning"
    )
    text += "".join(row(f"`{reason.value}`", ENDS[reason]) for reason in enums.Reason)
    text += "\n## Answers of HTTP\n\nProblem documents (RFC 9457) of `/v1`; more on each: [HTTP](../http-api.md#errors).\n\n"
    text += table("reason", "status", "title")
    text += "".join(row(f"`{reason}`", status, title) for reason, (status, title) in REASONS.items())
    text += "\n## Dead letters\n\n`bridge dead list` shows them with one of these reasons ([operations](../operations.md#dead-letters)).\n\n"
    text += table("reason", "meaning")
    text += "".join(row(f"`{word}`", says) for word, says in comments(enums, "DeadReason").items())
    text += "\n## Inside a bridge process\n\nWhat the log names, beside the ones above.\n\n" + table("class", "meaning")
    for found in every(errors.BridgeError):
        if not issubclass(found, errors.JobError):
            text += row(f"`{found.__name__}`", (found.__doc__ or "").split("\n\n")[0].strip())
    return text


def every(root: type[Exception]) -> Iterator[type[Exception]]:
    """An error and all below it, as they stand in bridge/errors.py."""
    yield root
    for found in root.__subclasses__():
        if found.__module__ == errors.__name__:
            yield from every(found)


PAGES = {
    "cli.md": command_pages,
    "metrics.md": metric_page,
    "logs.md": log_page,
    "events.md": event_page,
    "errors.md": error_page,
}


def main() -> int:
    """Write the pages, or say which of them is not the code's."""
    checks = sys.argv[1:] == ["--check"]
    FOLDER.mkdir(exist_ok=True)
    stale = []
    for name, made in PAGES.items():
        text = MADE + made().replace(f"bridge, version {__version__}", "bridge")
        path = FOLDER / name
        if path.is_file() and path.read_text() == text:
            continue
        stale.append(name)
        if not checks:
            path.write_text(text)
            print(path.relative_to(ROOT))
    if checks and stale:
        print(f"docs/reference is not current ({', '.join(stale)}): run scripts/docs write", file=sys.stderr)
    return 1 if checks and stale else 0


if __name__ == "__main__":
    sys.exit(main())
