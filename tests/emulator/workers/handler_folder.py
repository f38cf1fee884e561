"""A handler that looks around: where it is, what it can read there, and what others have left."""

import os
import sys
from pathlib import Path
from typing import Any

import runpod

ARGUMENTS = sys.argv[1:]  # the package takes them away


def handler(job: dict[str, Any]) -> Any:
    """Return what is here, and leave a file."""
    left = Path("left_by_a_job")
    found = left.exists()
    left.write_text(job["id"])
    return {
        "cwd": os.getcwd(),  # noqa: PTH109
        "found": found,
        "batch": job.get("batchId"),
        "note": Path("folder_note.txt").read_text(),
        "path": sys.path[0],
        "argv": ARGUMENTS,
        "python": sys.executable,
        "downloads": os.environ["RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS"],
        "refresh_worker": True,
    }


if __name__ == "__main__":
    runpod.serverless.start({"handler": handler})
