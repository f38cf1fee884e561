"""Calling callers back: which addresses may be called, one signed POST, and its secrets.

`addresses` says where a name may lead, `post` makes the one call, `signer` signs it. What is owed to whom stands in the
ledger (`ledger/stores/callbacks.py`), and `engine/tell/callbacks.py` works through it.
"""
