"""A web service of your own: it submits, hands chunks on as they come, and cancels. It holds nothing in its memory.

pip install fastapi uvicorn runpod-bridge-client
BRIDGE_REDIS_URL=redis://127.0.0.1:6379/0 uvicorn service:app
"""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

from bridge.client import AsyncClient, JobError, JobRejected, LedgerUnavailable, UnknownRequest


@asynccontextmanager
async def lifespan(app: FastAPI):
    """One client for all requests."""
    async with AsyncClient(os.environ["BRIDGE_REDIS_URL"]) as app.state.bridge:
        yield


app = FastAPI(lifespan=lifespan)


@app.exception_handler(JobRejected)
async def refused(_: Request, error: JobRejected):
    """A rule is broken, by a story or by an id that cannot be one."""
    return JSONResponse({"detail": str(error)}, 422)


@app.exception_handler(UnknownRequest)
async def unknown(_: Request, _error: UnknownRequest):
    """Nobody has ordered it here, or it is long forgotten."""
    return JSONResponse({"detail": "no such story"}, 404)


class Story(BaseModel):
    """What is ordered."""

    words: list[str]


@app.post("/stories", status_code=202)
async def order(story: Story):
    """The id is known to the bridge before the caller has it."""
    return {"id": await app.state.bridge.submit({"mock_stream": story.words, "mock_delay": 0.1}, stream=True)}


@app.get("/stories/{request_id}")
async def look(request_id: str):
    """How far it is."""
    document = await app.state.bridge.status(request_id)
    return {"id": request_id, "status": document.status, "reason": document.reason}


@app.get("/stories/{request_id}/words")
async def listen(request_id: str):
    """Server-sent events: a word each, then `end` with what became of it."""
    await app.state.bridge.status(request_id)  # a story that is none is answered 404, while that can still be said

    async def words() -> AsyncIterator[str]:
        try:
            async for chunk in app.state.bridge.stream(request_id, timeout=300):
                yield f"event: word\ndata: {json.dumps(chunk.output)}\n\n"
        except (JobError, TimeoutError, LedgerUnavailable) as error:
            yield f"event: end\ndata: {json.dumps(type(error).__name__)}\n\n"
        else:
            yield 'event: end\ndata: "completed"\n\n'

    return StreamingResponse(words(), media_type="text/event-stream")


@app.delete("/stories/{request_id}")
async def cancel(request_id: str):
    """It reaches the GPU."""
    return {"outcome": (await app.state.bridge.cancel(request_id, by="the web service"))["outcome"]}
