"""What is installed for a row: drivers beside the bridge's own packages, and environments of other teams."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.compat.row import CACHE, Missing

#: Named one by one, without what they depend on: Celery is here already, and must stay the one of the lock.
DRIVERS = (
    "pymemcache", "psycopg2-binary", "PyMySQL", "SQLAlchemy", "Django", "asgiref", "sqlparse", "django-celery-results",
    "pycurl", "msgpack",
)  # fmt: skip


def drivers() -> Path:
    """A folder to put on PYTHONPATH."""
    folder = CACHE / "drivers"
    if not (folder / ".done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        _run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), *DRIVERS)
        (folder / ".done").touch()
    return folder


def python_with(name: str, *packages: str) -> Path:
    """The interpreter of an environment with these packages and nothing of ours."""
    folder = CACHE / name
    python = folder / "bin" / "python"
    if not (folder / ".done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        _run(sys.executable, "-m", "venv", str(folder))
        _run(str(python), "-m", "pip", "install", "-q", *packages)
        (folder / ".done").touch()
    return python


def node_with(name: str, package: str) -> Path:
    """A folder in which Node finds the package."""
    _wanted("npm", "Node")
    folder = CACHE / name
    if not (folder / ".done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _run("npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", str(folder), package)
        (folder / ".done").touch()
    return folder


def go_program(name: str, source: Path, *modules: str) -> Path:
    """The program that this source builds to."""
    _wanted("go", "Go")
    folder = CACHE / name
    if not (folder / "client").exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, folder / "main.go")
        (folder / "go.mod").unlink(missing_ok=True)
        _run("go", "mod", "init", "client", cwd=folder)
        for module in modules:
            _run("go", "get", module, cwd=folder)
        _run("go", "build", "-o", "client", ".", cwd=folder)
    return folder / "client"


def _wanted(program: str, language: str) -> None:
    if shutil.which(program) is None:
        raise Missing(f"{language} is not installed (`{program}` is not on PATH)")


def _run(*command: str, cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n")  # with addresses, which are nobody's business in the table
        raise Missing(f"`{Path(command[0]).name} {command[1]}` cannot get what it needs")
