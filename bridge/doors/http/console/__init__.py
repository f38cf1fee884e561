"""The console: the bridge's own pages for whoever runs it, under `/console`.

`part` puts it together; `entrance` says who may come in and `session` keeps him; `pages` renders; `overview`, `lists`,
`one` and `dead` are the screens, `acting` what can be done there, each with a question first.
"""
