"""How things look in a terminal and in a pipe: `findings`, `times`, a line of `progress`, a live `full_screen`."""
