"""The output of a sweep: the live table, the result files, and the HTML report."""
