"""Learns what has become of a job: by status reads (`track`) and stream reads (`stream`).

`poll_plan` says when the next read pays, `run_times` from what; `observation` turns an answer into the table's words;
`outputs` keeps large ones in the object store.
"""
