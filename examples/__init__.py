"""What to copy from."""
