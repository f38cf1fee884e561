"""Load for the emulator, as a process of its own: `load.py PORT RUNS CONNECTIONS MOCK_DELAY`.

Submits RUNS jobs over CONNECTIONS kept-alive connections, then asks for the status of each; prints both rates as JSON.
Raw sockets, since an HTTP client library would be the slower side.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

HEAD = b"Host: emulator\r\nAuthorization: Bearer test-key\r\n"


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bytes:
    """Send one request, return the body of its answer."""
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if not head.startswith(b"http/1.1 200"):
        raise RuntimeError(f"unexpected answer: {head!r}")
    return await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))


async def connection(port: int, requests: list[bytes]) -> list[bytes]:
    """Send `requests` one after another over one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    bodies = [await exchange(reader, writer, request) for request in requests]
    writer.close()
    return bodies


async def rate(port: int, requests: list[bytes], connections: int) -> tuple[float, list[bytes]]:
    """Send all `requests` over `connections`; return how many a second, and the answers."""
    began = time.monotonic()
    shares = await asyncio.gather(*(connection(port, requests[n::connections]) for n in range(connections)))
    return len(requests) / (time.monotonic() - began), [body for share in shares for body in share]


async def main() -> None:
    """Measure and print."""
    port, runs, connections, delay = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    body = json.dumps({"input": {"mock_delay": delay, "prompt": "an astronaut riding a horse"}}).encode()
    run = b"POST /v2/demo/run HTTP/1.1\r\n" + HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    submits, answers = await rate(port, [run] * runs, connections)
    asks = [b"GET /v2/demo/status/%s HTTP/1.1\r\n" % json.loads(a)["id"].encode() + HEAD + b"\r\n" for a in answers]
    reads, _ = await rate(port, asks, connections)
    print(json.dumps({"run": round(submits), "status": round(reads)}))  # noqa: T201 - its answer


asyncio.run(main())
