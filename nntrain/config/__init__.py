"""The ground floor of nntrain: errors, messages, secrets, targets; it imports nothing above."""
