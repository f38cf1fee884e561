"""RunPod over HTTP: the client, and the budget and gate that all processes share. Knows nothing of the ledger."""
