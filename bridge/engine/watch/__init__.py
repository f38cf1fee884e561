"""Learns what has become of a job: by status reads (`status_polls`) and stream reads (`stream`).

`poll_plan` says when the next read pays, `poll_pace` from which run times; `observation` turns an answer into the
table's words.
"""
