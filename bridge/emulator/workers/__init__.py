"""RunPod workers: scaled with the queue, built in (timers) or processes of an unmodified handler.

`protocol` is what such a process speaks with the platform; `launch` is what it begins with.
"""
