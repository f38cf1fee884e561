"""Where messages come in, a folder for each kind of caller: `celery`, `json`, `http`.

A door unpacks, calls one function of the engine, and turns its verdict into an ack, an answer or an error.
It takes what it uses by name; `bridge.process` builds it.
"""
