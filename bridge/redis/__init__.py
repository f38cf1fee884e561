"""What everybody who talks to a Redis shares, whichever Redis it is; no keys, no records.

`address` reads a URL and opens its client; `outage` says what an error means; `round_trips` sends many commands in one,
and `pipelined` lets several pieces of work do so together. `public_keys` are the names that callers may touch.
"""
