"""Kills, cuts and freezes; asserts invariants only."""
