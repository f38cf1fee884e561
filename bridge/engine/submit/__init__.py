"""Brings accepted requests to RunPod inside the shared budget.

`submit` is the loop; `spending` stops it at an endpoint's GPU-time ceiling; `worker_counts` raises the budget with
RunPod's workers.
"""
