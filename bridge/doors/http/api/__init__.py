"""`/v1`: everything that may be asked of the bridge, over HTTP.

`part` puts it together; `guard` says who may ask what, by `tokens`; `submitting`, `reading`, `output`, `changing` and
`events` answer, the last by what `followers` hears; `problem` is every error's form; `openapi` describes all of it.
"""
