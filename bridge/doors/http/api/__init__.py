"""`/v1`: everything that may be asked of the bridge, over HTTP.

`routes` puts it together; `guard` says who may ask what, by `tokens`; `submitting`, `reading`, `output`, `changing` and
`following` answer, in `streamed` bits where it takes long; `problem` is every error's form; `description` tells all of
it to machines.
"""
