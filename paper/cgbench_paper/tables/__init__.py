"""One module for each table; `published.yaml` holds the values that publications state."""
