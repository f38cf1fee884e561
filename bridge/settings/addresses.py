"""Whether the address of a server can be read, and one spelling for its TLS option.

Asked before any library looks at it: a `/` in a password ends the host's part of a URL, and what the libraries then
say has half of the password in it. No fault told here repeats anything of the address but its scheme (I11).
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit

from bridge.redis.address import SENTINEL, is_sentinel, one_by_one, sentinels
from bridge.settings.certificates import authorities_fault, unreadable

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
#: Schemes whose addresses have one host, a port that is a number, and what their path means.
_REDIS = frozenset({"redis", "rediss", SENTINEL})
_PLAIN = _REDIS | {"amqp", "amqps", "pyamqp", "rpc"}
_VERIFY = ("required", "optional", "none")
#: Options that name files: certificates that are trusted, and what is shown to the server.
_AUTHORITIES, _OWN = "ssl_ca_certs", ("ssl_certfile", "ssl_keyfile")
_CERT_REQS = re.compile(r"(?<=[?&]ssl_cert_reqs=)[^&#]*")

_UNREADABLE = (
    "cannot be read as an address: is there a / ? # @ or : in its user or password? "
    "write them percent-encoded (%2F %3F %23 %40 %3A)"
)


def spelled(url: str) -> str:
    """The same address with `ssl_cert_reqs` as redis-py, kombu and Celery's results all take it."""
    return _CERT_REQS.sub(lambda found: _verify(found[0]) or found[0], url)


def verifying(url: str) -> str:
    """A `rediss://` address that says nothing of certificates asks for them, whichever library opens it."""
    if url.startswith("rediss://") and not _CERT_REQS.search(url):
        return f"{url}{'&' if '?' in url else '?'}ssl_cert_reqs=required"
    return url


def fault_of(url: str, *, several: bool = False) -> str | None:
    """Why it cannot be read; `several` addresses may stand with `;` between them."""
    if not several and not is_sentinel(url) and re.search(r";[A-Za-z][A-Za-z0-9+.-]*://", url):
        return "names several servers, and can be one only"
    if is_sentinel(url):
        return _fault_of_sentinels(url)
    parts = url.split(";") if several else [url]
    if any("://" not in part for part in parts[1:]):
        return "has a ; with no address behind it (in a user or password it is written %3B)"
    for part in parts:
        if fault := _fault_of(part):
            return fault
    return None


def tls_fault_of(url: str) -> str | None:
    """Why a file that it names for TLS is of no use; a library would tell that as a server that is away."""
    for part in url.split(";"):
        options = dict(parse_qsl(urlsplit(part).query))
        if (path := options.get(_AUTHORITIES)) and (fault := authorities_fault(path)):
            return f"its {_AUTHORITIES} {fault}"
        for name in _OWN:
            if (path := options.get(name)) and (fault := unreadable(path)):
                return f"its {name} {fault}"
    return None


def _fault_of_sentinels(url: str) -> str | None:
    """Each host as an address of its own, then all of it."""
    try:
        parts = one_by_one(url).split(";")
    except ValueError:
        return _UNREADABLE
    if not all(map(is_sentinel, url.split(";"))) or not all(parts):
        return "must name sentinels alone, for example sentinel://HOST:26379,HOST:26379/0?master_name=NAME"
    for part in [*url.split(";"), *parts]:
        # A part may name several hosts, which only their own addresses tell apart.
        if "," not in part and (fault := _fault_of(part)):
            return fault
    try:
        sentinels(url)
    except ValueError:
        return "has an option behind the ? with a value that cannot be read"
    return None


def _fault_of(url: str) -> str | None:
    scheme, separator, _ = url.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        return "must begin with a scheme, for example redis:// or amqp://"
    try:
        parts = urlsplit(url)
        if scheme in _PLAIN:
            parts.port  # noqa: B018  (a port that is no number raises)
    except ValueError:
        return _UNREADABLE
    if _spills(parts.netloc, parts.path, parts.query, parts.fragment, plain=scheme in _PLAIN):
        return _UNREADABLE
    if scheme in _REDIS and not re.fullmatch(r"/*\d*/*", parts.path):
        return (
            f"its database must be a number, for example {scheme}://HOST:PORT/0; or: {_UNREADABLE.partition(': ')[2]}"
        )
    found = _CERT_REQS.search(url)
    if found and _verify(found[0]) is None:
        return "ssl_cert_reqs must be required, optional or none (or CERT_REQUIRED, CERT_OPTIONAL, CERT_NONE)"
    return None


def _spills(netloc: str, path: str, query: str, fragment: str, *, plain: bool) -> bool:
    """Whether an `@` stands behind the host's part, where a password with a `/`, `?` or `#` has left it."""
    behind = "@" in path + fragment or "@" in query.partition("=")[0]
    if plain:
        return behind or ("@" in query and not netloc.rpartition("@")[2].partition(":")[0])
    return behind and bool(netloc) and "@" not in netloc


def _verify(value: str) -> str | None:
    word = value.lower().removeprefix("cert_")
    return word if word in _VERIFY else None
