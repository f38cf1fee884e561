"""What is true. The only room that changes a record; each change is one atomic script (I3)."""

from bridge.ledger.clock import LedgerClock
from bridge.ledger.connect import connect, inspect_server, run_a_script
from bridge.ledger.keys import Names
from bridge.ledger.ledger import Accepted, Claimed, Due, Ledger

__all__ = ["Accepted", "Claimed", "Due", "Ledger", "LedgerClock", "Names", "connect", "inspect_server", "run_a_script"]
