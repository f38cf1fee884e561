"""The ledger's Redis as a server: `connect` opens it and says whether it may be trusted, `disk` waits for its disk."""
