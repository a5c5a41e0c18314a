"""The documentation site: ``sphinx-build -W docs build/site`` (Sphinx, furo and MyST).

Sphinx, because the libraries that readers arrive from (PyTorch, PyTorch Geometric, RecBole, LensKit, linear_operator)
use it, so that references to their objects can become links; furo, because it reads well on a phone and in the dark.
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "figures"))  # what the figures share
sys.path.insert(0, str(HERE / "_ext"))

import mmssl_fast  # noqa: E402

project = "mmssl_fast"
author = "the mmssl_fast authors"
copyright = author  # Sphinx prints it in the footer
version = release = mmssl_fast.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
    "matplotlib.sphinxext.plot_directive",
    "configuration_reference",
    "command_reference",
    "mathml",
]
exclude_patterns = ["figures", "_ext", "_generated"]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300

default_role = "code"  # the docstrings write `names` as Markdown does
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
add_module_names = False
python_use_unqualified_type_names = True

# Other projects' object lists are read from the network, and the build has to work without one.
intersphinx_mapping = (
    {"python": ("https://docs.python.org/3", None), "torch": ("https://docs.pytorch.org/docs/stable", None)}
    if os.environ.get("MMSSL_FAST_DOCS_ONLINE")
    else {}
)

# `sphinx-build -b linkcheck docs LINKS` opens every external link; it needs the network, and no build runs it.
linkcheck_timeout = 20
linkcheck_retries = 2
linkcheck_workers = 4
linkcheck_ignore = [
    r"https?://(localhost|127\.0\.0\.1)(:\d+)?(/.*)?$",
    r"https://doi\.org/.*",  # leads to publishers, who refuse programs
]
linkcheck_anchors_ignore_for_url = [r"https://github\.com/.*"]  # its anchors are made by scripts

plot_formats = ["svg"]
plot_html_show_formats = False
plot_html_show_source_link = False
plot_include_source = False

html_theme = "furo"
html_math_renderer = "mathml"
html_title = f"mmssl_fast {release}"
html_theme_options = {"source_repository": "", "navigation_with_keys": True}
html_static_path = ["_static"]
html_css_files = ["site.css"]
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
