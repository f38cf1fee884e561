"""Where messages come in, a folder for each kind of caller: `celery`, `json`, `http`.

A door unpacks, calls one function of the engine, and turns its verdict into an ack, an answer or an error.
It takes what it uses by name; `bridge.process` builds it. What they share stands here: `parse` reads bytes into a
request, a command or a refusal (`broken_json` finds out who sent what cannot be read), `commands` is what may be asked
of the bridge itself, `replay` sends a dead letter again, to the door it came by.
"""
