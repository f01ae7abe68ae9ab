"""Configuration checks and error messages. Does not import other parts of nntrain."""
