"""The console: the bridge's own pages for whoever runs it, under `/console`.

`routes` puts it together; `access` says who may come in and `session` keeps him; `render` makes pages of templates;
`overview`, `request_list`, `one_request` and `dead_letters` are the screens, `actions` what can be done there, each
with a question first.
"""
