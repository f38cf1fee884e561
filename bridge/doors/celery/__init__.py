"""The Celery door: tasks, remote control and eager calls.

`tasks.register` puts the tasks on an app; `accept` and `accept_many` take requests in; `finish/` tells their
ends;
`consumer/` reads the broker.
"""
