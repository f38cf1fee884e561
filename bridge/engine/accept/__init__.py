"""Takes requests in, from whichever door.

`accept` checks a request whole and has it written; `repeated` answers one that came before; `back_pressure` says when
the doors must take no more.
"""
