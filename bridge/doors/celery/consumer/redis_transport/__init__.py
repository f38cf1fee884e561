"""Kombu's Redis transport without its hole, for the connection that a bridge worker consumes from.

`transport` is what Celery is given; `channel` takes messages in one step (`scripts`, when the `doorbell` rings) over
`foreign_messages` (what nobody can read) and `outages` (what Redis refuses for now); `acks` says what is done.
"""
