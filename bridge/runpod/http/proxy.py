"""The way to RunPod as the environment sets it, proxy and CA bundle: what cannot work is said in words.

Of a proxy's URL only the scheme is told: the rest may hold a password.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import requests
import urllib3
from requests.utils import select_proxy

from bridge.errors import Unreachable

_BUNDLE = "the CA bundle (REQUESTS_CA_BUNDLE, or CURL_CA_BUNDLE)"
_PROXY = "the proxy (HTTPS_PROXY, HTTP_PROXY or ALL_PROXY)"
_SCHEMES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")


def check_authorities(base_url: str, verify: object) -> None:
    """Raises Unreachable when the authorities that the environment names cannot be read."""
    if not isinstance(verify, str) or not base_url.lower().startswith("https:"):
        return
    path = Path(verify)
    if not path.exists():
        raise Unreachable(f"{_BUNDLE}: there is no file or folder {path}", reason="tls")
    if path.is_dir():
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError as error:  # ssl.SSLError is one
        why = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
        raise Unreachable(f"{_BUNDLE}: {path} cannot be used: {why}", reason="tls") from error


@contextmanager
def plain_about_addresses(base_url: str, proxies: Mapping[str, str]) -> Iterator[None]:
    """Whatever building a pool raises is about the proxy, where there is one, else about the base URL."""
    try:
        yield
    except (requests.RequestException, urllib3.exceptions.HTTPError, AssertionError, ValueError, OSError) as error:
        proxy = select_proxy(base_url, dict(proxies))
        if proxy is None:
            raise Unreachable(f"RUNPOD_ENDPOINT_BASE_URL: {base_url} cannot be used: {error}") from error
        raise Unreachable(f"{_PROXY} for {base_url}: {_fault_of(proxy)}", reason="proxy") from None


def _fault_of(proxy: str) -> str:
    scheme, colon, _ = proxy.partition("://")
    if not colon:
        return "is no URL like http://host:3128"
    if scheme.lower() not in _SCHEMES:
        known = scheme if scheme.isalnum() and len(scheme) <= 10 else "its scheme"  # noqa: PLR2004
        return f"{known}:// is none of {', '.join(_SCHEMES)}"
    if scheme.lower().startswith("socks"):
        return f"{scheme}:// needs a package that is not installed: pip install 'requests[socks]'"
    return f"is no URL like {scheme}://host:3128"
