"""One app: pictures that a GPU makes."""
