"""Verbs about requests: `request` (run, status, watch), `jobs` (which there are), `batch` (a file of inputs).

`batch_name` makes the ids of a batch's lines; `outputs` brings an output whole, whatever its size.
"""
