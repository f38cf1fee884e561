"""The demo: the main job on this machine, with nothing but Python. See scripts/demo."""
