"""Brings accepted requests to RunPod inside the shared budget.

`submit` is the loop, `batch` that of RunPod's Batch API; `scheduled_requests` lets those go whose time has come.
`spending` stops it at an endpoint's GPU-time ceiling; `worker_counts` raises the budget with RunPod's workers.
"""
