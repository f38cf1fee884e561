"""The pages say what the code does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from click import Context, Group

from bridge.cli import cli
from bridge.doors.commands import COMMANDS
from bridge.doors.parse import Command, take
from bridge.engine.control.health import TROUBLES
from bridge.errors import EndpointTrouble
from bridge.job.enums import Phase
from bridge.job.request import RunRequest
from bridge.job.state_table import TABLE
from bridge.settings import Settings
from tests.support.helpers import COMMAND_S

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "docker" / "README.md", *DOCS.glob("*.md")]


def test_every_setting_has_its_line() -> None:
    """Name and default stand in docs/configuration.md, and nothing stands there that does not exist."""
    text = (DOCS / "configuration.md").read_text()
    lines = dict(re.findall(r"^\| `([A-Z_]+)` \|([^|]*)\|", text, re.MULTILINE))
    fields = {name.upper(): field for name, field in Settings.model_fields.items()}
    assert lines.keys() == fields.keys()
    for name, field in fields.items():
        told = lines[name].strip().strip("`")
        default = (
            {True: "on", False: "off"}.get(field.default, field.default)
            if isinstance(field.default, bool)
            else field.default
        )
        if default in ("", None, {}, frozenset()) or name in {"CELERY_RESULT_BACKEND", "BRIDGE_REDIS_URL"}:
            continue
        assert told == (f"{default:g}" if isinstance(default, float) else str(default)), name


def test_the_lifecycle_picture_is_the_table() -> None:
    """Each arrow of docs/lifecycle.md is a cell of the table, and each cell that leads elsewhere has its arrow."""
    text = (DOCS / "lifecycle.md").read_text()
    drawn = {tuple(arrow) for arrow in re.findall(r"^    (\w+) --> (\w+): ([\w, ]+)$", text, re.MULTILINE)}
    pictured = {(was, becomes, event) for was, becomes, events in drawn for event in events.split(", ")}
    cells = {
        (was.value, becomes.value, event)
        for (was, event), targets in TABLE.items()
        for becomes in targets
        if becomes is not was and (becomes is not Phase.CLOSED or was is Phase.SETTLED)
    }
    assert all(  # the shortcut that is left out, as the page says it
        Phase.SETTLED in targets
        for (was, event), targets in TABLE.items()
        if Phase.CLOSED in targets and was is not Phase.CLOSED
    )
    assert pictured == cells


def test_each_phase_is_explained_and_can_be_reached() -> None:
    """No box of the picture is without a line below it, and none but the first is without an arrow to it."""
    text = (DOCS / "lifecycle.md").read_text()
    assert set(re.findall(r"^\| ([A-Z]+) \|", text, re.MULTILINE)) == {phase.value for phase in Phase}
    reached = set(re.findall(r"^    \S+ --> (\w+)", text, re.MULTILINE))
    assert reached == {phase.value for phase in Phase}


def test_each_event_of_the_picture_is_explained() -> None:
    """The words on the arrows stand in the paragraph below the picture."""
    text = (DOCS / "lifecycle.md").read_text()
    told = text[text.index("The events:") : text.index("| phase |")]
    drawn = {
        word for events in re.findall(r"^    \w+ --> \w+: (.+)$", text, re.MULTILINE) for word in events.split(", ")
    }
    assert drawn == set(re.findall(r"`(\w+)`", told))


def first_words(page: str, heading: str) -> set[str]:
    """What stands in backticks in the first column of the tables below a heading."""
    text = (DOCS / page).read_text()
    section = re.split(r"^##? ", text[text.index(heading) + len(heading) :], maxsplit=1, flags=re.MULTILINE)[0]
    cells = re.findall(r"^\|([^|]*)\|", section, re.MULTILINE)
    return {word for cell in cells for word in re.findall(r"`([^`]+)`", cell)}


def test_each_argument_of_a_request_has_its_line() -> None:
    """docs/control.md names what `bridge.run` takes, and nothing else."""
    assert first_words("control.md", "## Arguments") == set(RunRequest.model_fields)


def test_each_control_task_has_its_line_and_a_line_to_copy() -> None:
    """docs/control.md names every task of the control queue, and shows how to send it."""
    assert first_words("control.md", "# Control") == set(COMMANDS)
    shown = set(re.findall(r'^    ask\("([^"]+)"', (DOCS / "control.md").read_text(), re.MULTILINE))
    assert shown == set(COMMANDS)


def test_each_line_to_copy_is_taken_by_its_task() -> None:
    """The arguments that docs/control.md shows are those that the tasks allow."""
    for task, arguments in re.findall(r'^    ask\("([^"]+)"(.*)\)$', (DOCS / "control.md").read_text(), re.MULTILINE):
        assert set(re.findall(r"(\w+)=", arguments)) <= COMMANDS[task][1] | {"by"}, task


def test_each_command_shown_exists() -> None:
    """A verb, or an option, that a page shows is one that the command has."""
    for page in PAGES:
        for line in re.findall(r"^    bridge (.+)$", page.read_text(), re.MULTILINE):
            verb, *words = line.partition("#")[0].split()
            command = cli.get_command(Context(cli), verb)
            assert command is not None, f"{page.name}: bridge {verb}"
            if verb == "worker":  # its options are Celery's
                continue
            if isinstance(command, Group):
                command = command.get_command(Context(command), words[0])
                assert command is not None, f"{page.name}: bridge {line}"
            known = {option for parameter in command.params for option in parameter.opts}
            assert {word for word in words if word.startswith("--")} <= known, f"{page.name}: bridge {line}"


def test_each_remote_command_shown_is_on_the_panel() -> None:
    """`celery -A bridge.app inspect|control NAME` of docs/control.md; asked of a process of its own."""
    program = (
        "import json, bridge.app\n"
        "from celery.worker.control import Panel\n"
        "print(json.dumps({n: m.type for n, m in Panel.meta.items() if n.startswith('bridge_')}))"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=COMMAND_S
    )
    shown = re.findall(
        r"^    celery -A bridge.app (inspect|control) (\w+)", (DOCS / "control.md").read_text(), re.MULTILINE
    )
    assert {name: kind for kind, name in shown} == json.loads(told.stdout)


def test_the_table_of_extras_is_the_project_s() -> None:
    """docs/deploying.md tells each extra, and none that is not there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert first_words("deploying.md", "## What to install") == set(project["optional-dependencies"])


def test_each_metric_shown_is_counted_or_read() -> None:
    """docs/operations.md names no metric that code does not feed."""
    source = "".join((ROOT / "bridge" / name).read_text() for name in ("doors/http/gauges.py", "telemetry/metrics.py"))
    shown = {
        re.sub(r"\{.*", "", name) for name in first_words("operations.md", "## Health") if name.startswith("bridge_")
    }
    assert shown
    assert all(f'"{name}"' in source for name in shown)


def test_each_verdict_of_the_gate_is_explained() -> None:
    """docs/control.md knows every word that a closed gate can say."""
    reasons = {trouble.reason for trouble in EndpointTrouble.__subclasses__()}
    assert reasons <= TROUBLES.keys()
    verdicts = {verdict for verdict, _ in TROUBLES.values()}
    known = {"ok", "cold", "throttled", "unhealthy", "paused", "unreachable", *verdicts}
    assert first_words("control.md", "## Verdicts of health") == known
    text = (DOCS / "control.md").read_text()
    assert all(f"`{reason}`" in text for reason in reasons)


def test_each_json_command_shown_is_taken_by_the_doors() -> None:
    """A line of docs/control.md is a command as a service may send it; each operation has one."""
    lines = re.findall(r'^    (\{"op": .+\})$', (DOCS / "control.md").read_text(), re.MULTILINE)
    taken = [take(line, None, "stream", None, "commands") for line in lines]
    assert all(isinstance(command, Command) for command in taken), taken
    assert {f"bridge.{command.op}" for command in taken if isinstance(command, Command)} == set(COMMANDS)


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_glossary_says_each_word_once() -> None:
    """One word, one meaning; several in one line are words too."""
    cells = re.findall(r"^\| ([^|]+) \|", (DOCS / "glossary.md").read_text(), re.MULTILINE)
    words = [word for cell in cells for word in cell.split(", ")]
    assert len(words) == len(set(words)), sorted(word for word in words if words.count(word) > 1)


def test_links_lead_somewhere() -> None:
    """No page points at one that is not there, nor at a heading that it has not."""
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#:]+)(?:#([^)]*))?\)", page.read_text()):
            found = page.parent / target
            assert found.exists(), f"{page.name} -> {target}"
            assert not anchor or anchor in anchors(found), f"{page.name} -> {target}#{anchor}"


def test_the_figures_shown_are_those_that_were_measured() -> None:
    """Tables and plots of docs/performance.md are what `scripts/bench report` makes of the figures."""
    command = [sys.executable, "-m", "tests.bench.report", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=COMMAND_S, check=False)
    assert done.returncode == 0, done.stderr
