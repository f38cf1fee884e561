"""The bridge's tests: unit, integration, contract, emulator, chaos, bench."""
