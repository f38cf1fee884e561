"""The door for services that speak plain JSON, over AMQP and Redis streams.

`handler` does what was asked (`doors/parse.py` has read it); `consumer` is the loop that `amqp` and `redis_streams`
share, `loops` all of them in a process. `command_order` lets commands overtake requests, as far as `queue_depths` tell;
`amqp_frames` reads what py-amqp cannot.
"""
