"""What others read and write in the ledger's Redis.

`inbox` (requests and commands), `outbox` (events), `replies`, `dead_letters`; `made_ids` for messages without an id;
`monitors` is whose turn it is to tell others. `repair` sets aside what is no stream.
"""
