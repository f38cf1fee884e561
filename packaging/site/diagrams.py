"""The diagrams of the pages as SVG, so that the site needs neither a network nor three megabytes of script.

Drawn by mermaid itself (npm, at the version below) in a headless browser. Run by `scripts/docs write`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from hooks import DOCS, MERMAID, ROOT, picture_of

sys.path.append(str(ROOT))
from tests.support.chromium import HOW_TO_GET_CHROMIUM, chromium, find_chromium

VERSION = "11.17.2"
FOLDER = DOCS / "images" / "diagrams"
#: One look in light and dark: the picture has a light ground of its own.
SETTINGS = {"startOnLoad": False, "theme": "neutral", "fontFamily": "sans-serif", "htmlLabels": False}


def main() -> int:
    """Draw what has no picture, and take away pictures of what is no longer there."""
    wanted = {picture_of(text): text for page in DOCS.rglob("*.md") for text in MERMAID.findall(page.read_text())}
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.glob("*.svg"):
        if old.name not in wanted:
            old.unlink()
    missing = {name: text for name, text in wanted.items() if not (FOLDER / name).exists()}
    if not missing:
        return 0
    if find_chromium() is None or shutil.which("npm") is None:
        print(f"scripts/docs: new diagrams need npm and a browser; {HOW_TO_GET_CHROMIUM}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", f"mermaid@{VERSION}"], cwd=folder, check=True, timeout=300)
        shutil.unpack_archive(f"{folder}/mermaid-{VERSION}.tgz", folder)
        script = Path(folder, "package", "dist", "mermaid.min.js").read_text()
        with chromium(Path(folder, "profile")) as tab:
            tab.open("data:text/html,<body></body>")
            tab.run(script + "; mermaid.initialize(" + json.dumps(SETTINGS) + "); true")
            for number, (name, text) in enumerate(missing.items()):
                drawing = f"mermaid.render('diagram{number}', {json.dumps(text)}).then(made => made.svg)"
                (FOLDER / name).write_text(tab.run(drawing) + "\n")
                print(FOLDER / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
