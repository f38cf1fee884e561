"""Questions about many records, in bounded steps: nothing of it is on a request's road.

`listing` has the ids of all requests, the newest first; `scan` reads many records; `parked_requests` those that engines
could not work; `event_history` what the event stream still holds of one.
"""
