"""The bridge worker as a Celery worker that others look at and steer.

`node` is its process and exit codes; `remote_control` answers `inspect` and `control`; `task_events` tells monitors
what happens while `listeners` finds one; `logs` and `child_metrics` are its lines and counters; `redacted_request` is
what is shown of a message.
"""
