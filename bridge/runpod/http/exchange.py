"""One HTTP/1.1 exchange on a connection of urllib3, with the answer read whole, by llhttp (`httptools`).

urllib3 makes the connection (proxies, TLS, names) and keeps it; what goes over it is written and read here, because
http.client builds each head header by header and reads it with the email package: nine tenths of what a call cost.
llhttp is strict: an answer whose framing can be read in two ways (two lengths, a length beside chunks) is none.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import urllib3
from httptools import HttpParserError, HttpResponseParser

from bridge.runpod.meaning import Body

#: Bytes of what is no body (heads, also of 1xx, and the frames of chunks).
HEAD_BYTES = 64 * 1024
#: Bytes read at once.
PIECE = 64 * 1024
#: Bytes read of an answer that is an error: only a sentence of it is told.
ERROR_BYTES = 64 * 1024


@dataclass
class Answer:
    """What came back. `flaw` says why the body is not whole: too large, cut, or still dripping at the deadline."""

    status: int
    headers: Mapping[str, str]  # names in lower case; of one that comes twice, the first
    body: bytes
    flaw: tuple[Body, str] | None = None
    # urllib3 logs these
    version_string: str = "HTTP/1.1"
    length_remaining: int = 0


def speaking(base: Any, max_bytes: int) -> Any:
    """A connection class of urllib3 that sends and reads by itself. A body has at most so many bytes."""

    class SpeakingConnection(base):  # type: ignore[misc]
        def request(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str], **_: Any) -> None:
            """Send it in one piece. `headers` hold Host and nothing that breaks a line (`client.py` sees to both)."""
            if self.sock is not None and self.sock.gettimeout() != self.timeout:
                self.sock.settimeout(self.timeout)
            lines = [f"{method} {url} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
            if body is not None:
                lines.append(f"Content-Length: {len(body)}")
            head = "\r\n".join([*lines, "", ""]).encode("ascii")
            self._sent_whole = False
            # A server may answer and close before it has read all: its answer is looked for.
            with suppress(BrokenPipeError, ConnectionResetError):
                self.send(head + body if body else head)
                self._sent_whole = True

        def getresponse(self) -> Answer:
            """The answer, whole or with its flaw. Whatever this raises, the answer's head did not come."""
            if self.sock.gettimeout() != self.timeout:
                self.sock.settimeout(self.timeout)
            reading = self.reading()
            reading.all_of(self.sock)
            return self.answered(reading)

        def reading(self) -> Reading:
            """What is to become of the answer: the head has `timeout` seconds from now, and then the body again."""
            return Reading(max_bytes, self.timeout)

        def answered(self, reading: Reading) -> Answer:
            """The answer as it was read. The connection is closed where it cannot be used again."""
            answer = reading.answer()
            if not (reading.keeps and answer.flaw is None and self._sent_whole):
                self.close()
            return answer

    return SpeakingConnection


class Reading:
    """What llhttp has read so far of an answer; it calls the `on_` methods."""

    def __init__(self, max_bytes: int, timeout_s: float) -> None:
        self.parser: Any = HttpResponseParser(self)
        self.status = 0
        self.headers: dict[str, str] = {}
        self.pieces: list[bytes] = []
        self.received = self.size = 0
        self.headed = self.whole = self.keeps = False
        self.flaw: tuple[Body, str] | None = None
        self._most, self._timeout_s = max_bytes, timeout_s
        self.deadline = time.monotonic() + timeout_s

    def on_message_begin(self) -> None:
        """llhttp: an answer begins."""
        if self.whole:  # bytes that nobody asked for: the connection cannot be trusted any more
            self.keeps = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """llhttp: one line of a head."""
        if not self.headed:
            self.headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        """llhttp: a head is whole."""
        if self.headed:
            return
        status = self.parser.get_status_code()
        if status < HTTPStatus.OK and status != HTTPStatus.SWITCHING_PROTOCOLS:  # a word on the way; the answer follows
            self.headers = {}
            return
        self.status, self.headed = status, True
        self.deadline = time.monotonic() + self._timeout_s
        if status >= HTTPStatus.MULTIPLE_CHOICES:
            self._most = min(self._most, ERROR_BYTES)

    def on_body(self, piece: bytes) -> None:
        """llhttp: a piece of a body."""
        if not self.whole:
            self.pieces.append(piece)
            self.size += len(piece)

    def on_message_complete(self) -> None:
        """llhttp: an answer is whole."""
        if self.headed and not self.whole:
            self.whole, self.keeps = True, self.parser.should_keep_alive()

    def take(self, data: bytes) -> None:
        """What came; nothing when the server has closed. Raises what it is when it is no HTTP."""
        self.received += len(data)
        try:
            self.parser.feed_data(data)
        except HttpParserError:
            self.keeps = False
            if not self.whole:
                raise
        if not data:
            if not self.headed or "content-length" in self.headers or "transfer-encoding" in self.headers:
                raise ConnectionError("the connection was closed")
            self.whole = True  # its end is the connection's
        late = not self.whole and time.monotonic() > self.deadline
        if not self.headed and (late or self.received > HEAD_BYTES):
            raise ConnectionError(f"no whole head after {self.received} bytes")
        if self.size > self._most or self.received > self._most + HEAD_BYTES:
            self.flaw = Body.TOO_LARGE, f"is over {self._most} bytes"
        elif late:
            self.flaw = Body.CUT, f"is not whole after {self.size} bytes"

    def all_of(self, sock: Any) -> None:
        """Read until nothing more is to be read. Raises what it is where the answer's head does not come."""
        while not self.over:
            try:
                self.take(sock.recv(PIECE))
            except Exception as error:  # noqa: BLE001  (raised again where no head has come)
                self.broken(error)

    @property
    def over(self) -> bool:
        """Whether nothing more is to be read."""
        return self.whole or self.flaw is not None

    def broken(self, error: Exception) -> None:
        """Nothing more will come. Raises the error where the answer's head has not."""
        if not self.headed:
            raise error
        self.flaw = Body.CUT, f"is cut after {self.size} bytes: {type(error).__name__}"

    def answer(self) -> Answer:
        """What it came to."""
        self.parser = None  # it holds this object: a circle would wait for the garbage collector
        body = b"".join(self.pieces)
        if "content-encoding" in self.headers:
            body, self.flaw = (b"", self.flaw) if self.flaw else _unpacked(body, self.headers, self._most)
        return Answer(self.status, self.headers, body, self.flaw)


def _unpacked(packed: bytes, headers: Mapping[str, str], most: int) -> tuple[bytes, tuple[Body, str] | None]:
    """A body that came packed although nobody asked for it, and why it is not whole."""
    plain = urllib3.HTTPResponse(io.BytesIO(packed), headers=headers, preload_content=False)
    pieces, size = [], 0
    try:
        while piece := plain.read1(PIECE):
            pieces.append(piece)
            size += len(piece)
            if size > most:
                return b"".join(pieces), (Body.TOO_LARGE, f"is over {most} bytes")
    except Exception as error:  # noqa: BLE001  (whatever it is, the rest cannot be read)
        return b"".join(pieces), (Body.CUT, f"is cut after {size} bytes: {type(error).__name__}")
    return b"".join(pieces), None
