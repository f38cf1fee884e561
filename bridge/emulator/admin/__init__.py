"""What RunPod has not: faults, the clock and jobs of a running emulator, in process, over HTTP and on a page.

It hands out `actions.Admin` and its HTTP, `routes.Routes`.
"""
