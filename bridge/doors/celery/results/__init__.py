"""What is stored under a request's id, and by whom.

`backend` is Celery's result backend as this worker uses it; `known_ids` keeps everybody else's results away from the
ids of requests.
"""
