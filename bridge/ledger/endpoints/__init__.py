"""What the ledger knows of an endpoint: whether it is paused, its load, ages, run times and GPU time.

`shared_answer` lets one process ask RunPod for all of them.
"""
