"""`bridge check`: everything that can be looked at from a shell.

`check` is the verb; `durability` says what a power cut could take, `callbacks` whether anybody sends them.
"""
