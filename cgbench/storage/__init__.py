"""Files that survive interruptions: atomic writes, locks, YAML restricted to plain data, source code, standard streams.

`files` writes files atomically, `lock` lets one process at a time use a folder, `yaml_text` reads YAML, `source_code`
makes fingerprints of code, and `standard_streams` deals with output that is closed or limited to ASCII. Imports only
errors.
"""
