"""One module for each table, and what it writes."""
