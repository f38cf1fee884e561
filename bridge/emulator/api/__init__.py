"""RunPod's public HTTP API under `/v2/<endpoint>/`: what comes in, each operation, and faults on its answers.

It hands out `app.Front`, the ASGI application, which also passes on what is the workers' or the admin's.
"""
