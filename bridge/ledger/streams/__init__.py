"""What others read and write in the ledger's Redis.

`inbox` (requests and commands), `outbox` (events), `replies`, `dead` letters; `made_ids` for messages without an id.
"""
