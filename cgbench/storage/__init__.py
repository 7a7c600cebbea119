"""Files that survive interruptions: atomic writes, locks, and YAML restricted to plain data.

`files` writes files atomically, `lock` lets one process at a time use a folder, and `yaml_text` reads YAML. Imports
only errors.
"""
