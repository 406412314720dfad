"""How the documentation is built: ``sphinx-build -W -n docs docs/_build``, without a network."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_extensions")]
os.environ["COLUMNS"] = "92"  # what argparse wraps the help of commands at
os.environ["MPLBACKEND"] = "agg"

import gpustats  # noqa: E402 -- found by the path above

project = "gpustats"
author = "The gpustats developers"
copyright = author  # noqa: A001 -- Sphinx's name
version = release = gpustats.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "command_help",
    "mathml",
    "short_names",
]
exclude_patterns = ["_build", "_extensions"]
templates_path = ["_templates"]
needs_sphinx = "8.1"

# pages
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

# names: those of other packages have no page here, and nothing is fetched
default_role = "py:obj"
autosummary_generate = True
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
nitpick_ignore_regex = [
    (r"py:.*", r"(np|numpy|pd|pandas|nibabel|distributed|collections|os|typing|types)\..*"),
    (r"py:class", r"(NDArray|BlockExchange|Client|Scheme|StoredMaps)"),
    # what only developers meet
    (r"py:class", r"gpustats\.(engines|exchangeability|masker|memory|report|spaces|stored)\..*"),
    (r"py:class", r"gpustats\.(cohort_header|extra_maps|model_outputs)\..*"),
]

# gallery
sphinx_gallery_conf = {
    "examples_dirs": str(HERE.parent / "examples" / "gallery"),
    "gallery_dirs": "gallery",
    "download_all_examples": False,
    "show_memory": False,
    "write_computation_times": False,
    "show_signature": False,
    "remove_config_comments": True,
    "within_subsection_order": "FileNameSortKey",
    "image_scrapers": ("matplotlib",),
    "capture_repr": ("_repr_html_",),
    "abort_on_example_error": True,
}

# look
html_theme = "furo"
html_title = f"gpustats {release}"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_theme_options = {
    "light_css_variables": {"code-font-size": "75%"},
    "dark_css_variables": {"code-font-size": "75%"},
}
html_show_sourcelink = False
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True
