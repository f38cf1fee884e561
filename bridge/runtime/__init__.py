"""What a process is made of, whatever it does: threads, waiting, open files, lines of log.

`loop` does one thing again and again, `queue_thread` works off what it is given, `look` asks a server that may hang;
`backoff` says how long to wait, `open_files` how many may still be opened; `library_logs` lets no content into others'
lines; `broker_connection` bounds what is waited for there.
"""
