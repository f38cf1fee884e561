"""A request's events over HTTP: `followers` hear what comes, `past_events` finds what was, `sse` writes it.

`events` is the route.
"""
