"""What the environment and the configuration file say: one frozen object, checked whole.

`settings` is that object, `endpoints` the book of endpoints; `addresses` reads URLs, `key_file` a key that may be
rotated, `unknown_variables` finds misspelt names.
"""

from bridge.settings.settings import FROM_FILES, Settings, load

__all__ = ["FROM_FILES", "Settings", "load"]
