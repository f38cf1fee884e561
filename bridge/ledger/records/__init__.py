"""Requests as the ledger holds them.

`read` reads them, `write` accepts and changes them with what `script_arguments` makes for the scripts.
`lease` hands them out; `output` reads large outputs in pieces.
"""
