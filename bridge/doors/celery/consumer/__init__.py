"""How a Celery worker of the bridge reads its broker.

`consumer` looks at the queues as they are found (`queues`); `redis_transport/` takes a message of Redis in one step;
`check_message` (and `check_signatures`, what follows it) looks at each before Celery does, and `refuse` sets aside what
fails; `pause_consuming` takes nothing more while the ledger has enough.
"""
