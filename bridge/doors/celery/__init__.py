"""The Celery door: tasks, remote control and eager calls.

`tasks.register` puts the tasks on an app. `consumer/` reads the broker, `accept/` takes requests in, `finish/` tells
their ends, `results/` guards what is stored, `send_follow_ups` sends what follows; `worker/` is what others see of it.
`canvas` is what follows a request, `servers` whether broker and result backend can be opened.
"""
