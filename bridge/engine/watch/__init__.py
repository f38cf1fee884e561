"""Learns what has become of a job: by status reads (`track`) and stream reads (`stream`).

`poll_times` says when the next read pays, `pace` from what; `observation` turns an answer into the table's words;
`outputs` keeps large ones in the object store.
"""
