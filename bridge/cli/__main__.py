"""`python -m bridge.cli` is `bridge`."""

from bridge.cli import main

if __name__ == "__main__":
    main()
