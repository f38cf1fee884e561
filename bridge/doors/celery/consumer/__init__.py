"""How a Celery worker of the bridge reads its broker.

`consumer` looks at the queues as they are found (`queues`); `transport` takes a message of Redis in one step;
`back_pressure` stops taking while the ledger has enough.
"""
