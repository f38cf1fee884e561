"""Measurements; each says what it measured, and with which command."""
