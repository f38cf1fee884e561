"""`python -m bridge.emulator` is `bridge emulate`."""

from bridge.emulator.command import emulate

if __name__ == "__main__":
    emulate()
