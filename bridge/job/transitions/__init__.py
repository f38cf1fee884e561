"""What each event makes of a record in each phase, as pure functions, by what the request is going through.

Each returns a `Change`: the new row, long values, events, due time. `bridge.job.state_table` says which may move what.
"""

from __future__ import annotations

from bridge.job.transitions.accepting import Accepting
from bridge.job.transitions.clocks_run_out import ClocksRunOut
from bridge.job.transitions.streaming import Streaming
from bridge.job.transitions.telling_the_end import TellingTheEnd
from bridge.job.transitions.unreadable import Unreading
from bridge.job.transitions.watching import Watching


class Table(Accepting, Watching, Unreading, Streaming, ClocksRunOut, TellingTheEnd):
    """All transitions, under one set of rules. `now` is ledger time in milliseconds."""
