"""The documentation as a site: `make docs` builds it, with search, asking no other host."""

project = "fedlearn"
copyright = "the fedlearn developers"  # noqa: A001  (the name is Sphinx's)
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
source_suffix = {".md": "markdown"}
root_doc = "index"
exclude_patterns = ["deployment/*"]
html_theme = "furo"
html_title = "fedlearn"
html_show_sphinx = False

myst_enable_extensions = ["attrs_inline", "fieldlist"]
myst_heading_anchors = 4
# Links to files of the repository that are no pages of the site.
suppress_warnings = ["myst.xref_missing", "misc.highlighting_failure"]

napoleon_google_docstring = True
napoleon_custom_sections = [("Guarantees", "params_style"), ("Source", "notes_style")]
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
# Docstrings are Markdown; what stands between single backticks is code.
default_role = "code"
nitpicky = False
