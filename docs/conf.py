"""How Sphinx builds the documentation, with ``tests/run --docs``. Nothing is loaded from the network."""

from __future__ import annotations

import sys
from configparser import ConfigParser
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
sys.path.insert(0, str(CHECKOUT))
_setup = ConfigParser()
_setup.read(CHECKOUT / "setup.cfg")

project = "flask-warmcache"
author = _setup["metadata"]["author"]
copyright = author
release = version = _setup["metadata"]["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "pallets_sphinx_themes"]
exclude_patterns = ["_build"]
suppress_warnings = ["myst.domains"]  # two domains that the theme brings cannot look links up

myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autoclass_content = "both"
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "flask"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["extra.css"]
html_sidebars = {"**": ["globaltoc.html", "localtoc.html", "searchbox.html"], "404": []}
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
pygments_style = "default"
version_banner = False  # the theme's banner would ask PyPI
