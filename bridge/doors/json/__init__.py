"""The door for services that speak plain JSON, over AMQP and Redis streams.

`parse` reads bytes into a request, a command or a refusal; `handler` does what was asked; `consumer` is the loop that
`amqp` and `redis_streams` share; `consumers` starts them all; `replay` sends a dead letter again.
"""
