"""What the ledger keeps beside the records, a file for each thing, each a part of `Ledger`.

`engines` (who lives), `batches` at RunPod, `callbacks` that are owed, `scheduled_commands`, `stored_outputs` of the
object store, `run_times` of endpoints, `follow_up_queues` into which what follows requests was sent.
"""
