"""One GET by the standard library alone: what stands in an object store, by the link that the bridge has signed."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from bridge.errors import OutputUnavailable

if TYPE_CHECKING:
    from bridge.client.steps import Fetch

#: Bytes of one read.
PIECE = 1024 * 1024


def download(fetch: Fetch) -> bytes | None:
    """The bytes, None when it is not there, or is larger than it should be. Raises OutputUnavailable.

    Nothing that is raised holds the link's signature.
    """
    parts = urlsplit(fetch.url)
    if parts.scheme not in {"https", "http"}:
        raise OutputUnavailable(f"a link of {parts.scheme}:// is not opened")
    left = max(1.0, fetch.until - time.monotonic())
    found = bytearray()
    try:
        with urllib.request.urlopen(fetch.url, timeout=left) as answer:  # noqa: S310  (its scheme is looked at)
            while piece := answer.read(PIECE):
                found += piece
                if len(found) > fetch.limit:
                    return None
                if time.monotonic() > fetch.until:
                    raise TimeoutError("the object store is too slow")
    except urllib.error.HTTPError as error:
        error.close()
        return None
    except urllib.error.URLError as error:
        raise OutputUnavailable(f"{parts.hostname}: {error.reason}") from None
    return bytes(found)
