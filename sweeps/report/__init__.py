"""What a sweep shows and writes: the table, the results, the report."""
