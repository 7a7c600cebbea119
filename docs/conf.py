"""How Sphinx builds the documentation; ``tox -e docs`` runs it."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "cgbench"
author = "The cgbench developers"
copyright = author
release = version = metadata.version("cgbench")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "reference",
    "tables",
]
templates_path = ["_templates"]
exclude_patterns = ["_build"]
nitpicky = True

html_theme = "furo"
html_title = "cgbench"

myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3

default_role = "autolink"  # in docstrings, `name` is a link where the name has a page, and emphasised elsewhere
autosummary_generate = True
suppress_warnings = ["config.cache"]  # the templates' functions cannot be pickled, and need not be
autodoc_default_options = {"show-inheritance": True, "exclude-members": "model_config"}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = False
napoleon_use_rtype = False
