"""What a power cut could take from the ledger's or the broker's Redis, and how to change that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge.errors import LedgerUnavailable, SettingsError
from bridge.ledger import connect, inspect_server
from bridge.ledger.server.connect import lacks_a_right
from bridge.ledger.server.disk import fault_of
from bridge.redis.address import is_redis, is_sentinel

if TYPE_CHECKING:
    from bridge.cli.terminal.findings import Finding
    from bridge.ledger.server.connect import Server
    from bridge.settings import Settings


def of_ledger(server: Server, settings: Settings) -> list[Finding]:
    """What the ledger's server keeps."""
    found, fails_over = _kept(server, "ledger"), is_sentinel(settings.ledger_url)
    if fails_over and not server.replicas:
        waits = ", and nothing is accepted until one is" if settings.bridge_ledger_fsync == "wait" else ""
        found.append(("FAULT", "ledger", f"no replica is connected: Sentinel has no server to fail over to{waits}"))
    if fails_over and server.min_replicas == "0":
        says = (
            "min-replicas-to-write is 0: a master that comes back after a failover takes writes for some seconds and "
            "drops them; set `min-replicas-to-write 1` on every server"
        )
        found.append(("WARN", "ledger", says))
    if settings.bridge_ledger_fsync == "wait":
        fault = fault_of(server, fails_over=fails_over)
        on_disk = server.appendonly and not fails_over
        says = f"acceptance and submits wait until {'they are on its disk' if on_disk else 'a replica has them'}"
        found.append(("FAULT", "ledger", fault) if fault else ("ok", "ledger", f"BRIDGE_LEDGER_FSYNC=wait: {says}"))
    return found


def of_broker(settings: Settings) -> list[Finding]:
    """What the broker keeps of messages that nobody has taken yet."""
    if settings.amqp:
        says = "durable queues and persistent messages: what RabbitMQ has confirmed outlives its restart"
        return [("ok", "broker", says)]
    if not is_redis(settings.celery_broker_url):
        return []
    client = connect(settings.celery_broker_url, variable="CELERY_BROKER_URL")
    try:
        server = inspect_server(client, "CELERY_BROKER_URL")
    except LedgerUnavailable as error:
        return [("FAULT", "broker", f"does not tell how it keeps messages: {error}")]
    except SettingsError as error:  # it was just asked what a broker is asked
        if lacks_a_right(error):
            return [("WARN", "broker", "its user may not ask how it keeps messages: allow +info")]
        return [("WARN", "broker", str(error))]
    finally:
        client.close()
    found = _kept(server, "broker")
    if server.eviction.startswith("allkeys"):
        says = f"maxmemory-policy is {server.eviction}: a full server drops messages; set `maxmemory-policy noeviction`"
        found.append(("FAULT", "broker", says))
    return found


def _kept(server: Server, about: str) -> list[Finding]:
    if not server.appendonly:
        says = (
            "no append-only file: a crash of Redis loses what came since its last snapshot; `appendonly yes` keeps it"
        )
        return [("WARN", about, says)]
    match server.appendfsync:
        case "always":
            return [("ok", about, "appendfsync always: a power cut loses nothing")]
        case "everysec":
            says = "appendfsync everysec: a power cut may lose the last second; `appendfsync always` loses nothing"
            return [("ok", about, says)]
        case "no":
            says = "appendfsync no: a power cut may lose half a minute; set `appendfsync everysec`"
            return [("WARN", about, says)]
        case _:
            return [("ok", about, "append-only file; the server does not say how often it is written")]
