"""Sphinx: the settings of the documentation's site (`make docs`)."""

project = "Esper"
copyright = "Esper's authors"  # noqa: A001  # Sphinx reads it by this name
extensions = ["myst_parser"]
html_theme = "pydata_sphinx_theme"
html_title = "Esper"
html_show_sphinx = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["docs.css"]
# all pages at the side: there are few, and a reader sees what there is
html_sidebars = {"**": ["globaltoc.html"]}
html_theme_options = {
    "navbar_center": [],
    "globaltoc_maxdepth": 1,
    "secondary_sidebar_items": ["page-toc"],
    # it would ask another server for other versions
    "show_version_warning_banner": False,
}
root_doc = "docs/index"
source_suffix = {".md": "markdown"}
# anchors of headings, as a repository's own pages have them
myst_heading_anchors = 3
# queries and transcripts are for no lexer
highlight_language = "none"
