"""How the documentation is built."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from condiff import __version__

project = "condiff"
author = "The condiff authors"
copyright = "The condiff authors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.mathjax", "names"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "_ext"]
nitpicky = True

html_theme = "furo"
html_title = "condiff"
html_static_path: list[str] = []
# Highlighting "console" and "python" only; both are known to Pygments.
highlight_language = "none"
