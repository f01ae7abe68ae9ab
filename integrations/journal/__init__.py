"""The journal of a run: its format, and how to write, read and close it."""
