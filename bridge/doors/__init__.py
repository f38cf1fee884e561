"""Where messages come in: thin shells that unpack, call one function of the engine, and turn its verdict into an answer."""
