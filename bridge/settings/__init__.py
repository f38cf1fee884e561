"""What the environment and the configuration file say: one frozen object, checked whole.

`settings` is that object, `config_file` the endpoints and tenants of BRIDGE_CONFIG_FILE; `addresses` reads URLs,
`key_file` a key that may be rotated, `unknown_variables` finds misspelt names.
"""

from bridge.settings.settings import FROM_FILES, Settings, load

__all__ = ["FROM_FILES", "Settings", "load"]
