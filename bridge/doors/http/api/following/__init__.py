"""A request's events over HTTP: `followers` hear what comes, `past` finds what was, `telling` puts it into words.

`events` is the route.
"""
