"""The workers that run the trials of a sweep."""
