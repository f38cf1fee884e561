"""Takes requests off Celery's queues into the ledger: `in_bulk` plain ones in one round trip, any other as a `task`.

`eta` leaves what is for later to the ledger, so that no message waits in a worker's memory.
"""
