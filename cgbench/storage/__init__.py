"""Files that survive interruptions: atomic writes, folder locks, YAML as plain data. Imports only errors."""
