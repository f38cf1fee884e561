"""The end of a Celery-born request, told under its original task id.

`task` is `bridge.finish`, run by Celery's tracer in a turn (`finish_lease`), with a `backend` that asks the ledger;
`in_process` runs it without a message where tasks run beside the engine; `in_bulk` stores ends at once that nothing
follows, or a chord alone, which `chord_member` tells. `repeats` answers who sends a request again.
"""
