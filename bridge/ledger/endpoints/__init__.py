"""What the ledger knows of endpoints: whether one is paused, its load, ages and GPU time.

`answer_cache` lets one process ask RunPod for all of them.
"""
