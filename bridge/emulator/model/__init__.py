"""What RunPod's platform knows and does: jobs, the queue of an endpoint, limits, webhooks, faults, one virtual clock.

No HTTP comes in here, and who runs the jobs is seen through `endpoint.Runners` alone.
"""
