"""What the ledger knows of endpoints: whether one is paused, its load, ages and GPU time.

`shared_answer` lets one process ask RunPod for all of them.
"""
