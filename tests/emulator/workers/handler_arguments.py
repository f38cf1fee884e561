"""A program that writes its further arguments to the file that the first one names, and stays."""

import sys
import time
from pathlib import Path

Path(sys.argv[1]).write_text(" ".join(sys.argv[2:]))
time.sleep(60)
