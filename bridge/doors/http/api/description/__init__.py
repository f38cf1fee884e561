"""What tells of `/v1`: `openapi`, made from the models, of which `models` has those of HTTP alone; `routes` serve it."""
