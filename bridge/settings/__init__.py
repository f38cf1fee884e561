"""What the environment and the configuration file say: one frozen object, checked whole.

`settings` is that object; `addresses` reads URLs, `key_file` a key that may be rotated, `strange_names` finds misspelt
variables; `faults` puts what is wrong into words.
"""

from bridge.settings.settings import FROM_FILES, Settings, load

__all__ = ["FROM_FILES", "Settings", "load"]
