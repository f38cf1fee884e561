"""What others read and write in the ledger's Redis: `inbox` (requests, commands), `outbox` (events), `dead` letters."""
