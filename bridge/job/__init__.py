"""The words, the state table and the models: what a request is and how it may change. No I/O."""
