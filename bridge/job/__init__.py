"""What a request is and how it may change. No I/O.

`request` is what a caller may ask, `record` the ledger's row, `document` what callers are told; `state_table` and
`transitions/` say how a record moves, by a `change`, and `clocks` when; `enums` has the closed lists of words;
`contract/` the JSON of it.
"""
