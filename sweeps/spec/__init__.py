"""The search space and the plan of a sweep."""
