"""Where messages come in: thin shells that unpack, call one function, and turn its verdict into an answer."""
