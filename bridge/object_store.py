"""Large outputs in an object store, by fsspec: the only room that knows it. Keys, bytes, URLs; no idea of records.

Every method is one call that may take as long as the store takes; who must not wait runs it elsewhere.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from bridge.errors import OutputUnavailable, SettingsError

#: Ids that are file names as they stand; others are hashed (`~` is in no id, and no name begins with a dot).
_PLAIN = re.compile(r"[A-Za-z0-9_\-][A-Za-z0-9._\-]{0,119}")
_INSTALL = {"s3": "pip install 'runpod-bridge[s3]'", "gs": "pip install gcsfs", "gcs": "pip install gcsfs"}


class Blobs:
    """A place by URL. Nothing is opened before the first call, and nothing is shared with a forked child."""

    def __init__(self, url: str, options: Mapping[str, Any] | None = None, *, timeout_s: float = 10.0) -> None:
        """Raises SettingsError when nobody here can open such a URL. `timeout_s` is for those that take one."""
        self._url = url.rstrip("/")
        self.scheme = url.partition("://")[0]
        self._options = dict(options or {})
        if self.scheme == "s3":
            config = {"connect_timeout": timeout_s, "read_timeout": timeout_s, "retries": {"max_attempts": 2}}
            self._options["config_kwargs"] = {**config, **self._options.get("config_kwargs", {})}
        self._lock = threading.Lock()
        self._opened: tuple[Any, str] | None = None
        self._importable()

    def _importable(self) -> None:
        try:
            import fsspec  # noqa: PLC0415  (an extra)

            fsspec.get_filesystem_class(self.scheme)
        except (ImportError, ValueError) as error:
            how = _INSTALL.get(self.scheme, "pip install 'runpod-bridge[blob]' and what fsspec needs for it")
            raise SettingsError(f"BRIDGE_BLOB_URL: {self.scheme}:// cannot be opened: {error}; {how}") from None

    def _open(self) -> tuple[Any, str]:
        with self._lock:
            if self._opened is None:
                import fsspec  # noqa: PLC0415

                self._opened = fsspec.url_to_fs(self._url, **self._options)
            return self._opened

    def key(self, namespace: str, request_id: str, round_: int, sha256: str) -> str:
        """Where an output of a request goes: the same output of the same round always to the same place."""
        name = request_id if _PLAIN.fullmatch(request_id) else "~" + hashlib.sha256(request_id.encode()).hexdigest()
        return f"{namespace}/{name}/{round_}-{sha256}.json"

    def url(self, key: str) -> str:
        """The URL that stands in documents: it opens with fsspec, and holds no credentials."""
        return f"{self._url}/{quote(key, safe='/~')}"

    def key_of(self, url: str) -> str | None:
        """The key of one of our URLs, None for another store's."""
        return url[len(self._url) + 1 :] if url.startswith(self._url + "/") else None

    def put(self, key: str, raw: bytes) -> None:
        """Write, whole or not at all. Raises OutputUnavailable."""
        with _told("written"):
            files, root = self._open()
            path = f"{root}/{key}"
            if self.scheme not in {"file", "local"}:  # an object appears when it is whole
                files.pipe_file(path, raw)
                return
            part = f"{path}.{secrets.token_hex(4)}.part"
            files.makedirs(path.rpartition("/")[0], exist_ok=True)
            files.pipe_file(part, raw)
            files.mv(part, path)

    def get(self, key: str) -> bytes:
        """Read. Raises OutputUnavailable, also when it is not there."""
        with _told("read"):
            files, root = self._open()
            raw: bytes = files.cat_file(f"{root}/{key}")
            return raw

    def part(self, key: str, start: int, length: int) -> bytes:
        """Read some bytes of it. Raises OutputUnavailable, also when there are not so many."""
        with _told("read"):
            files, root = self._open()
            raw: bytes = files.cat_file(f"{root}/{key}", start=start, end=start + length)
        if len(raw) != length:
            raise OutputUnavailable(f"the object store gave {len(raw)} bytes of an output in place of {length}")
        return raw

    def signed(self, key: str, seconds: int) -> str | None:
        """A URL by which anybody may read it for so long; None where the store has none. Raises OutputUnavailable.

        It is a secret: for the one who asked, never for a log or a document.
        """
        with _told("signed"):
            files, root = self._open()
            try:
                url: str = files.sign(f"{root}/{key}", expiration=seconds)
            except NotImplementedError:
                return None
        return url

    def delete(self, key: str) -> None:
        """Delete; one that is not there is deleted. Raises OutputUnavailable."""
        with _told("deleted"):
            files, root = self._open()
            try:
                files.rm_file(f"{root}/{key}")
            except FileNotFoundError:
                return

    def probe(self) -> None:
        """Write, read and delete something small. Raises OutputUnavailable."""
        key, raw = f"probe/{secrets.token_hex(8)}.json", b'"probe"'
        self.put(key, raw)
        if self.get(key) != raw:
            raise OutputUnavailable("the object store gave back other bytes than were written")
        self.delete(key)


class _told:  # noqa: N801  (used as a verb)
    """Whatever a store's library raises becomes ours: they all have words of their own."""

    def __init__(self, done: str) -> None:
        self._done = done

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, OutputUnavailable):
            raise OutputUnavailable(f"an output could not be {self._done}: {type(error).__name__}: {error}") from error
