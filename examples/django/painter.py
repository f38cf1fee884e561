"""A RunPod handler that paints what it is asked for, step by step. Input: `prompt`, `seconds` (how long it takes: 4, "slowly" 60).

It stands for the image model on a GPU: the same prompt gives the same picture, progress is told, and it can fail.
"""

import random
import time

import runpod

STEPS, SIZE = 20, 240


def handler(job):
    """`{"svg": text}`."""
    prompt = job["input"]["prompt"]
    if "nothing" in prompt:
        raise ValueError("there is nothing to paint")
    seconds = job["input"].get("seconds", 60 if "slowly" in prompt else 4)
    pick = random.Random(prompt)
    hue, shapes = pick.randrange(360), []
    for step in range(1, STEPS + 1):
        time.sleep(seconds / STEPS)
        x, y, r = pick.randrange(SIZE), SIZE * (0.35 + step / STEPS / 1.6), pick.randrange(30, 110)
        colour = f"hsl({(hue + pick.randrange(60)) % 360} 55% {75 - 2 * step}%)"
        shapes.append(f'<ellipse cx="{x}" cy="{y:.0f}" rx="{r}" ry="{r / 3:.0f}" fill="{colour}" opacity=".75"/>')
        runpod.serverless.progress_update(job, {"percent": 100 * step // STEPS})
    sun = f'<circle cx="{pick.randrange(50, 190)}" cy="70" r="28" fill="hsl({(hue + 40) % 360} 80% 85%)"/>'
    sky = f'<rect width="{SIZE}" height="{SIZE}" fill="hsl({hue} 60% 70%)"/>'
    return {"svg": f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 240 240">{sky}{sun}{"".join(shapes)}</svg>'}


if __name__ == "__main__":
    runpod.serverless.start({"handler": handler})
