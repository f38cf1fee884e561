"""What all loops that call others share.

`threads` makes the calls, as many at a time as are free; `write_queue` writes what they bring, many in one round trip;
`endpoint_isolation` keeps one endpoint's fault from the others.
"""
