"""How Sphinx builds the site: `make docs`."""

import fastlayers

project = "fastlayers"
author = "The fastlayers developers"
copyright = "2026, The fastlayers developers"
version = release = fastlayers.__version__

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc"]
myst_heading_anchors = 3
numpydoc_show_class_members = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say more
default_role = "py:obj"  # names in single backticks, in docstrings

html_theme = "furo"
html_title = f"fastlayers {version}"
