"""What is set of callbacks: the secrets that sign them, and addresses that are called though they are not public."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from pathlib import Path
from typing import NamedTuple

from bridge.settings.certificates import authorities_fault

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

SECRET_PREFIX = "whsec_"  # noqa: S105
#: Bytes of a secret, as Standard Webhooks has them.
SECRET_MIN, SECRET_MAX = 24, 64
#: The new one and the old one, while receivers change over.
SECRETS_MAX = 2
_NAME = re.compile(r"(?=.*[A-Za-z_])[A-Za-z0-9_.\-]{1,253}")


class Allowed(NamedTuple):
    """What may be called beside public addresses: host names, and networks."""

    names: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()


def allowed_of(text: str) -> Allowed:
    """Names and networks with commas between them, as `hooks.internal, 10.2.0.0/16`. Raises ValueError."""
    names: list[str] = []
    networks: list[Network] = []
    neither: list[str] = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        try:
            networks.append(ipaddress.ip_network(word.strip("[]")))
        except ValueError:
            (names if _NAME.fullmatch(word) else neither).append(word)
    if neither:
        which = f"{neither[0]!r} is" if len(neither) == 1 else f"{', '.join(map(repr, neither))} are"
        raise ValueError(f"{which} neither a host's name nor an address or network (10.2.0.0/16)")
    return Allowed(frozenset(name.lower().rstrip(".") for name in names), tuple(networks))


def secrets_of(text: str) -> tuple[str, ...]:
    """The secrets of a file, the newest first. Raises ValueError, which repeats none of them."""
    lines = [line.strip() for line in text.splitlines()]
    found = tuple(line for line in lines if line and not line.startswith("#"))
    if not 1 <= len(found) <= SECRETS_MAX:
        raise ValueError(f"must hold one secret, or two while they are changed, a line each; it holds {len(found)}")
    for n, secret in enumerate(found, 1):
        try:
            size = len(base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True))
        except (binascii.Error, ValueError):
            size = 0
        if not secret.startswith(SECRET_PREFIX) or not SECRET_MIN <= size <= SECRET_MAX:
            raise ValueError(
                f"secret {n} must be {SECRET_PREFIX} and {SECRET_MIN} to {SECRET_MAX} bytes in base64: make one with "
                f"`echo {SECRET_PREFIX}$(openssl rand -base64 32)`"
            )
    return found


def callback_faults(secret_file: Path | None, ca_file: Path | None, timeout_s: float, lease_s: float) -> list[str]:
    """What is wrong with the settings of callbacks; of times, only where callbacks are sent."""
    faults = []
    if secret_file is not None:
        try:
            secrets_of(secret_file.read_text())
        except OSError as error:
            faults.append(f"BRIDGE_CALLBACK_SECRET_FILE: cannot be read: {error.strerror}")
        except UnicodeDecodeError:
            faults.append("BRIDGE_CALLBACK_SECRET_FILE: is no text")
        except ValueError as error:
            faults.append(f"BRIDGE_CALLBACK_SECRET_FILE: {error}")
    if ca_file is not None and (fault := authorities_fault(ca_file)):
        faults.append(f"BRIDGE_CALLBACK_CA_FILE: {ca_file} {fault}")
    if secret_file is not None and timeout_s + 5 > lease_s:
        faults.append("BRIDGE_LEASE_S: must be over BRIDGE_CALLBACK_TIMEOUT_S + 5")
    return faults
