"""Requests as the ledger holds them: `arguments` for the scripts that change them.

`walk` goes through many of them, `parked` tells of those that nobody could work.
"""
