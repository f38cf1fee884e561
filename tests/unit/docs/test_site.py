"""The pages as a site: built strictly, loaded from nowhere else, made from the code where they say so."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bridge.engine.control.health import TROUBLES
from bridge.telemetry.catalogue import CATALOGUE
from tests.support.helpers import COMMAND_S

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
OWN = [path for path in DOCS.rglob("*.md") if "node_modules" not in path.parts]


def ran(*command: str) -> str:
    """What a command says; it must succeed."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_site_is_built_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """No link or anchor leads nowhere, each page stands in the navigation, and a browser asks no other server."""
    ran(sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site"))
    pages = [path for path in (tmp_path / "site").rglob("*.html") if "examples" not in path.parts]
    assert len(pages) > len(OWN)
    for page in pages:
        text = page.read_text()
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]*? src=\"?([^\s\">]+)", text)
        loaded += re.findall(r"<link[^>]*? href=\"?([^\s\">]+)[^>]*>", text)
        assert [one for one in loaded if "//" in one] == [], page
    for style in (tmp_path / "site").rglob("*.css"):
        assert re.findall(r"url\(['\"]?(?:https?:)?//[^)]+", style.read_text()) == [], style
    # The theme fetches mermaid's script where it meets a diagram: here all are pictures.
    assert not [page for page in pages if 'class="mermaid"' in page.read_text()]


def test_pictures_load_nothing_from_elsewhere() -> None:
    """An SVG may name fonts and styles of other servers."""
    for path in (DOCS / "images").rglob("*.svg"):
        assert re.findall(r"(?:url\(|href=|src=)['\"]?(?:https?:)?//[^'\")]+", path.read_text()) == [], path


@pytest.mark.locked
def test_the_reference_is_the_code_s() -> None:
    """docs/reference is what `scripts/docs write` would write now."""
    ran(sys.executable, "packaging/site/reference.py", "--check")


def test_links_to_other_sites_are_well_formed() -> None:
    """By their form alone: no test asks another server."""
    for page in OWN:
        for link in re.findall(r"\]\((https?:[^)\s]*)\)|<(https?:[^>\s]*)>", page.read_text()):
            parts = urlsplit(link[0] or link[1])
            local = parts.hostname in {"127.0.0.1", "localhost"}
            assert parts.scheme == ("http" if local else "https"), f"{page.name}: {parts.geturl()}"
            assert local or re.fullmatch(r"([a-z0-9-]+\.)+[a-z]{2,}", parts.hostname or ""), f"{page.name}: {link}"
            assert not parts.path.endswith((".", ",")), f"{page.name}: {link}"


def test_lists_stand_apart_from_the_paragraph_above() -> None:
    """GitHub shows them either way, the site does not."""
    for page in OWN:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        joined = re.findall(r"^(?![-*|\d> ]|$|#|<).+\n(?:[-*] |1\. ).*", text, re.MULTILINE)
        assert joined == [], page.name


def test_the_runbook_names_what_there_is() -> None:
    """Each first symptom is a log line, a metric, a verdict or a sentence that code tells."""
    text = (DOCS / "runbook.md").read_text()
    words = {word for word in re.findall(r"`([a-z_]+\.[a-z_]+)`", text) if not word.startswith("bridge.")}
    assert words
    assert words <= CATALOGUE.keys()
    metrics = (DOCS / "reference" / "metrics.md").read_text()
    named = set(re.findall(r"`(bridge_[a-z_]+)", text))
    assert {"bridge_engines", "bridge_oldest_seconds", "bridge_result_expiry_seconds"} <= named
    assert [name for name in named if f"`{name}`" not in metrics] == []
    assert {verdict for verdict, _ in TROUBLES.values()} - {"paused"} <= set(re.findall(r"`(\w+)`", text))
    source = (ROOT / "bridge" / "cli" / "check" / "check.py").read_text()
    for says in ("of maxmemory is used: the doors are closed", "times without its latest writes", "none: start"):
        assert f"`{says}`" in text
        assert says in source
    assert "`cannot be worked on`" in text
    assert "cannot be worked on" in source
