"""The demo's own Celery app, with the task that joins the tiles; it imports nothing of the bridge."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any

from celery import Celery
from PIL import Image

app = Celery("demo", broker=os.environ.get("CELERY_BROKER_URL"), backend=os.environ.get("CELERY_RESULT_BACKEND"))
app.conf.update(task_serializer="json", result_serializer="json", accept_content=["json"])
app.conf.update(broker_connection_retry_on_startup=True)


@app.task(name="demo.join")
def join(tiles: list[dict[str, Any]], path: str) -> dict[str, Any]:
    """The chord's body: every tile's PNG, put into one picture at `path`."""
    pictures = [Image.open(io.BytesIO(base64.b64decode(tile["png"]))) for tile in tiles]
    size = pictures[0].width
    columns, rows = max(tile["x"] for tile in tiles) + 1, max(tile["y"] for tile in tiles) + 1
    whole = Image.new("RGB", (columns * size, rows * size))
    for tile, picture in zip(tiles, pictures, strict=True):
        whole.paste(picture, (tile["x"] * size, tile["y"] * size))
    whole.save(Path(path))
    return {"tiles": len(tiles), "width": whole.width, "height": whole.height, "path": path}
