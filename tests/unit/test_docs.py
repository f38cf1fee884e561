"""The pages say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from bridge.job.table import TABLE
from bridge.job.words import Phase
from bridge.settings import Settings

DOCS = Path(__file__).parent.parent.parent / "docs"


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
        if default in ("", None, {}) or name in {"CELERY_RESULT_BACKEND", "BRIDGE_REDIS_URL"}:
            continue
        assert told == (f"{default:g}" if isinstance(default, float) else str(default)), name


def test_the_lifecycle_picture_is_the_table() -> None:
    """Each arrow of docs/lifecycle.md is a cell of the table, and each cell has its arrow."""
    text = (DOCS / "lifecycle.md").read_text()
    drawn = {tuple(arrow) for arrow in re.findall(r"^    (\w+) --> (\w+): ([\w, ]+)$", text, re.MULTILINE)}
    pictured = {(was, becomes, event) for was, becomes, events in drawn for event in events.split(", ")}
    cells = {
        (was.value, becomes.value, event)
        for (was, event), targets in TABLE.items()
        for becomes in targets
        if becomes is not was and not (becomes is Phase.CLOSED and Phase.SETTLED in targets)
    }
    assert pictured == cells


def test_links_lead_somewhere() -> None:
    """No page points at one that is not there."""
    root = DOCS.parent
    for page in [root / "README.md", *DOCS.glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} -> {target}"
