"""The journal: the record of a run that training writes and everything else reads."""
