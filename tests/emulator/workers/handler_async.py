"""An unmodified RunPod handler: asynchronous, with everything a handler may do."""

import asyncio
import os
from typing import Any

import runpod


async def handler(job: dict[str, Any]) -> Any:  # noqa: C901 - one case each
    """Do what the input says."""
    asked = job["input"]
    if asked.get("die"):
        os._exit(3)
    if asked.get("raise"):
        raise ValueError(asked["raise"])
    if asked.get("error"):
        return {"error": asked["error"], "seen": 1}
    if asked.get("progress"):
        runpod.serverless.progress_update(job, asked["progress"])
        await asyncio.sleep(asked["sleep"])
    if asked.get("sleep"):
        try:
            await asyncio.sleep(asked["sleep"])
        except asyncio.CancelledError:
            if asked.get("note"):
                with open(asked["note"], "w") as note:  # noqa: ASYNC230, PTH123
                    note.write("stopped")
            raise
    if "return" in asked:
        return asked["return"]
    if asked.get("refresh"):
        return {"refresh_worker": True, "pid": os.getpid()}
    if asked.get("large"):
        return "x" * asked["large"]
    return {"echo": asked, "pid": os.getpid(), "keys": sorted(job)}


runpod.serverless.start({"handler": handler})
