"""A handler that never comes up."""

raise SystemExit("no such model")
