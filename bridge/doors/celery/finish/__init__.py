"""The end of a Celery-born request, told under its original task id.

`task` is `bridge.finish`, run by Celery's tracer in a `turn` of the ledger, with a `backend` that asks it; `in_process`
runs it without a message where tasks run beside the engine; `many` stores ends at once that nothing follows.
"""
