"""What mkdocs is told beside mkdocs.yml: pages that stand outside `docs/`, links to them, and pictures of diagrams.

The pages are read on GitHub and in editors as well, so they link to files as they lie in the repository. Here such a
link becomes one to the site's page of that file, or to a copy of the file below `source/`.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
#: What stands outside `docs/` and is a page of the site all the same.
PAGES = {
    "docker/README.md": "containers.md",
    "examples/django/README.md": "django.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
#: Read in the repository, where the site has a page of its own.
INSTEAD = {"README.md": "index.md"}
#: Folders of text that a link may name; a site shows files alone.
LINK = re.compile(r"(\]\()([^)#:\s]+)((?:#[^)]*)?\))")
FENCE = re.compile(r"^```(\w+)[ \t]+[^\n]+$", re.MULTILINE)
MERMAID = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def picture_of(diagram: str) -> str:
    """The name of the SVG of a diagram, below `docs/images/diagrams`; another text is another name."""
    return f"{hashlib.sha256(diagram.encode()).hexdigest()[:12]}.svg"


def _sources() -> dict[str, Path]:
    """Each page of the site with its file."""
    own = {str(path.relative_to(DOCS)): path for path in DOCS.rglob("*.md") if "node_modules" not in path.parts}
    return own | {page: ROOT / path for path, page in PAGES.items()}


def _outside(target: str, source: Path) -> str | None:
    """The path in the repository of a link's target that is no file of `docs/`; None for one that is."""
    found = (source.parent / target).resolve()
    if not found.is_relative_to(ROOT):
        raise PluginError(f"{source}: {target} leads out of the repository")
    return None if found.is_relative_to(DOCS) and source.is_relative_to(DOCS) else str(found.relative_to(ROOT))


def _copy_of(path: str) -> str:
    """Where the site has a file that is none of its pages. HTML is shown as text: it is read, not run."""
    return f"source/{path}{'' if Path(path).suffix in {'.json', '.png', '.svg'} else '.txt'}"


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and files that links name outside `docs/`."""
    for path, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text()))
    for source in _sources().values():
        for _, target, _ in LINK.findall(source.read_text()):
            path = _outside(target, source)
            if path is None or path in PAGES or path in INSTEAD or path.startswith("docs/"):
                continue
            if (ROOT / path).is_file() and files.get_file_from_path(_copy_of(path)) is None:
                files.append(File.generated(config, _copy_of(path), content=(ROOT / path).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links, the words behind a fence's language (a test reads them), and diagrams."""
    name = page.file.src_uri
    source = _sources()[name]
    here = posixpath.dirname(name)

    def to(path: str) -> str:
        return posixpath.relpath(path, here) if here else path

    def link(found: re.Match[str]) -> str:
        begins, target, ends = found.groups()
        path = _outside(target, source)
        if path is None:
            return found.group()
        if path.startswith("docs/"):
            return begins + to(path.removeprefix("docs/")) + ends
        known = PAGES | INSTEAD
        return begins + to(known.get(path) or _copy_of(path)) + ends

    def picture(found: re.Match[str]) -> str:
        svg = picture_of(found[1])
        if not (DOCS / "images" / "diagrams" / svg).is_file():
            raise PluginError(f"{name}: a diagram has no picture of what it says now: run scripts/docs write")
        where = to(f"images/diagrams/{svg}")
        return f"[![A diagram, told in words below]({where}){{ .diagram }}]({where})"  # opens large

    return LINK.sub(link, FENCE.sub(r"```\1", MERMAID.sub(picture, markdown)))
