"""What tells of `/v1`: `openapi`, made from the models, those of HTTP alone in `models`; `routes` serve it."""
