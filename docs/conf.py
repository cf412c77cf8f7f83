"""The documentation as a site: `python -m sphinx -W --keep-going -b html docs docs/_build/html`."""

from __future__ import annotations

import re

import infoplane

project = "infoplane"
author = "the infoplane developers"
version = release = infoplane.__version__
extensions = ["myst_nb", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "_templates", "tables.py"]
root_doc = "index"

# Markdown. Links between pages are checked to the heading: slugs down to the third level.
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# Notebooks have no outputs in the repository: the build runs them, and an error in one ends it.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True

# One page for each public name of docs/api/*.md.
default_role = "code"  # `single backticks` of a docstring are code
autosummary_generate = True
autosummary_imported_members = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False  # the template of a class lists its members itself
templates_path = ["_templates"]

# Every cross-reference has to be found. Sphinx cannot know the names of other projects without a network.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(lightning|torch|numpy|np|pandas|matplotlib|h5py|xarray|collections|typing|pathlib)\..*")
]

html_theme = "pydata_sphinx_theme"
html_title = "infoplane"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
    "show_prev_next": True,
    "navbar_align": "left",
}
# Pages without pages below them need no list of these.
html_sidebars = {
    page: [] for page in ("index", "start", "gallery", "methods", "certificate", "experiments", "format", "changelog")
}
copyright = "the infoplane developers, Apache-2.0"


def absolute_values(app, what, name, obj, options, lines):
    """Keep |t| of a docstring as it is: to Sphinx bars are a substitution. Literals in backticks are left alone."""
    lines[:] = [
        "".join(part if i % 2 else part.replace("|", r"\|") for i, part in enumerate(re.split(r"(`+[^`]*`+)", line)))
        for line in lines
    ]


def setup(app):
    app.connect("autodoc-process-docstring", absolute_values, priority=900)
