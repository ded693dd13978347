"""Sphinx: `make docs` builds HTML and man pages with warnings as errors."""

project = "anykvm"
author = "the anykvm developers"
project_copyright = author

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
root_doc = "index"
exclude_patterns = ["_build"]

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]

html_theme = "alabaster"
html_theme_options = {"description": "a KVM that runs anywhere", "page_width": "1100px"}

man_pages = [
    ("man/anykvm", "anykvm", "a KVM that runs anywhere, and its virtual machine monitor", author, 1),
]
