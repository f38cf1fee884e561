"""Brings what has happened to those who wait for it.

`finish` sends ends to Celery in the words of `celery_result`, `celery_states` the states on the way; `publish` relays
events, replies and results to RabbitMQ by `amqp_publisher`, `callbacks` calls back. `follow_up_readers` tells of
queues that nobody reads, `retell_waiting` why requests wait.
"""
