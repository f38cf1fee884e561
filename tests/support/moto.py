"""A real S3-speaking server for a test, in a process of its own: moto's."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import requests

from bridge.embedded import tied
from tests.support.helpers import eventually, free_port


class S3Server:
    """One bucket, `outputs`; ends with the test run."""

    def __init__(self, directory: Path) -> None:
        """Nothing runs before `start`."""
        self.port = free_port()
        self._log = directory / "s3.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """What BRIDGE_BLOB_OPTIONS is given."""
        return self.options_at(self.port)

    @staticmethod
    def options_at(port: int) -> dict[str, Any]:
        """The same by another port, where a proxy stands in between."""
        region = {"region_name": "us-east-1"}
        return {"endpoint_url": f"http://127.0.0.1:{port}", "key": "k", "secret": "s", "client_kwargs": region}

    @property
    def options_json(self) -> str:
        """As an environment variable has it."""
        return json.dumps(self.options)

    def start(self) -> Self:
        """Return when it takes requests, with its bucket made."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                tied(sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        eventually(lambda: self._call("put", "/outputs").status_code == 200, timeout=30)
        return self

    def keys(self) -> list[str]:
        """What the bucket holds."""
        text = self._call("get", "/outputs?list-type=2").text
        return [part.partition("</Key>")[0] for part in text.split("<Key>")[1:]]

    def log(self) -> str:
        """What it has said: each request with the code of its answer."""
        return self._log.read_text(errors="replace")

    def get(self, key: str) -> bytes:
        """One object."""
        return self._call("get", f"/outputs/{key}").content

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """As when the machine it runs on dies."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def freeze(self) -> None:
        """It takes connections, and answers nobody; killed it ends all the same."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def _call(self, method: str, path: str) -> requests.Response:
        who = "AWS4-HMAC-SHA256 Credential=k/20261125/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
        headers = {"Authorization": who}
        return requests.request(method, f"http://127.0.0.1:{self.port}{path}", headers=headers, timeout=5)
