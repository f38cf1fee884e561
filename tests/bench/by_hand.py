"""The least a consumer can cost, for comparison: asyncio, redis-py and aiohttp, without anything the bridge promises.

It takes requests from a list, submits, polls once a second and stores what Celery would. A request that is under way
when it is killed is lost, and so is its job; there are no limits, no cancel, no events.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import aiohttp
from redis.asyncio import Redis

#: The list that it reads.
QUEUE = "by-hand"
AT_ONCE = 2_000
KEEP_S = 86_400
_ENDS = {"COMPLETED": "SUCCESS", "FAILED": "FAILURE", "CANCELLED": "REVOKED", "TIMED_OUT": "FAILURE"}


async def _one(redis: Any, session: aiohttp.ClientSession, base: str, asked: dict[str, Any]) -> None:
    async with session.post(f"{base}/{asked['endpoint']}/run", json={"input": asked["input"]}) as answer:
        answer.raise_for_status()
        job_id = (await answer.json())["id"]
    told: dict[str, Any] = {"status": ""}
    while told["status"] not in _ENDS:
        await asyncio.sleep(1)
        async with session.get(f"{base}/{asked['endpoint']}/status/{job_id}") as answer:
            answer.raise_for_status()
            told = await answer.json()
    result = {"task_id": asked["id"], "status": _ENDS[told["status"]], "result": told.get("output")}
    await redis.set(f"celery-task-meta-{asked['id']}", json.dumps(result), ex=KEEP_S)


async def main() -> None:
    """Serve until it is ended."""
    redis: Any = Redis.from_url(os.environ["CELERY_BROKER_URL"], max_connections=AT_ONCE + 1)
    base, key = os.environ["RUNPOD_ENDPOINT_BASE_URL"], os.environ["RUNPOD_API_KEY"]
    slots = asyncio.Semaphore(AT_ONCE)
    connector, headers = aiohttp.TCPConnector(limit=AT_ONCE), {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session, asyncio.TaskGroup() as group:
        print("ready.", flush=True)  # noqa: T201
        while True:
            found = await redis.blpop(QUEUE, timeout=1)
            if found is None:
                continue
            await slots.acquire()
            group.create_task(_one(redis, session, base, json.loads(found[1]))).add_done_callback(
                lambda _: slots.release()
            )


if __name__ == "__main__":
    asyncio.run(main())
