"""A RunPod generator handler that tells a story word by word. Input: `seed` (which story), `pause` (s a word)."""

import asyncio
import random

import runpod

WHO = ("a lighthouse keeper", "an old tram driver", "the night baker", "a quiet beekeeper")
FOUND = ("a letter without a sender", "a door in the sea wall", "three warm stones", "a map of last winter")
THEN = ("kept it until spring", "gave it back to the tide", "told nobody but the dog", "read it aloud to the fog")


async def handler(job):
    """Yields one word at a time."""
    given = job["input"]
    pick = random.Random(given.get("seed", 1))
    story = f"One morning {pick.choice(WHO)} found {pick.choice(FOUND)} and {pick.choice(THEN)}."
    for word in story.split():
        await asyncio.sleep(given.get("pause", 0.1))
        yield word + " "


if __name__ == "__main__":
    runpod.serverless.start({"handler": handler, "return_aggregate_stream": True})
