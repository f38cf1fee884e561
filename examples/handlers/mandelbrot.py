"""A RunPod handler that computes: one tile of the Mandelbrot set, as a PNG in base64.

Input: `x`, `y` (the tile's place in the grid), `columns`, `rows`, `size` (pixels of a tile's side), and for the demo's
long job `seconds` (keeps rendering that long). Runs unmodified on RunPod Serverless and behind `bridge emulate`.
"""

import base64
import io
import time

import numpy as np
import runpod
from PIL import Image

#: The part of the plane that the whole picture shows: left, right, bottom, top.
VIEW = (-2.2, 0.8, -1.125, 1.125)
STEPS = 160


def tile(x, y, columns, rows, size):
    """Colours of one tile: how fast each point escapes."""
    left, right, bottom, top = VIEW
    width, height = (right - left) / columns, (top - bottom) / rows
    re = np.linspace(left + x * width, left + (x + 1) * width, size, endpoint=False)
    im = np.linspace(top - y * height, top - (y + 1) * height, size, endpoint=False)
    c = re[None, :] + 1j * im[:, None]
    z = np.zeros_like(c)
    escaped = np.full(c.shape, STEPS, dtype=float)
    for n in range(STEPS):
        inside = escaped == STEPS
        z[inside] = z[inside] ** 2 + c[inside]
        gone = inside & (np.abs(z) > 8)
        escaped[gone] = n + 1 - np.log2(np.log2(np.abs(z[gone])))
    depth = np.where(escaped == STEPS, 0.0, np.sqrt(np.clip(escaped, 0, STEPS) / STEPS))
    colours = np.stack([depth**0.9 * 255, depth**1.8 * 230, np.sin(depth * np.pi) * 190], axis=-1)
    return Image.fromarray(colours.astype(np.uint8), "RGB")


def handler(job):
    """One tile; or, asked for `seconds`, the same tile again and again until they are over."""
    given = job["input"]
    for name in ("x", "y", "columns", "rows", "size"):
        if not isinstance(given.get(name), int):
            raise TypeError(f"{name}: must be an integer, not {given.get(name)!r}")
    until = time.monotonic() + given.get("seconds", 0)
    while True:
        picture = tile(given["x"], given["y"], given["columns"], given["rows"], given["size"])
        if time.monotonic() >= until:
            break
    packed = io.BytesIO()
    picture.save(packed, "PNG")
    return {"x": given["x"], "y": given["y"], "png": base64.b64encode(packed.getvalue()).decode()}


if __name__ == "__main__":
    runpod.serverless.start({"handler": handler})
