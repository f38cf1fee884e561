"""What is true. The only room that changes a record; each change is one atomic script (I3).

`records/` reads, changes and leases them; `streams/` is what others read and write, `endpoints/` what is known of each,
`stores/` what is kept beside; `Ledger` has all of these. `queries/` asks about many records; `lua/` holds the scripts,
`server/` opens Redis.
"""

from bridge.ledger.clock import LedgerClock
from bridge.ledger.keys import Names
from bridge.ledger.ledger import Ledger
from bridge.ledger.records.lease import Claimed, Due
from bridge.ledger.records.write import Accepted
from bridge.ledger.server.connect import connect, inspect_server, run_a_script

__all__ = ["Accepted", "Claimed", "Due", "Ledger", "LedgerClock", "Names", "connect", "inspect_server", "run_a_script"]
