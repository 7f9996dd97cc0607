"""Sphinx's settings, and the check that the reference leaves no public name out."""

import inspect

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError

import backdraw

project = "backdraw"
author = copyright = "the backdraw developers"
version = release = backdraw.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.mathjax", "numpydoc", "myst_parser"]
html_theme = "alabaster"
default_role = "literal"
autodoc_typehints = "none"  # numpydoc says the types, with shapes
numpydoc_show_class_members = False
exclude_patterns = ["_build"]


def check_public_names(app: Sphinx, env: BuildEnvironment) -> None:
    """Fail on a public name without an entry."""
    public = {name for name, value in vars(backdraw).items() if name[0] != "_" and not inspect.ismodule(value)}
    documented = {name.removeprefix("backdraw.") for name in env.domains["py"].objects}
    if missing := sorted(public - documented):
        raise ExtensionError(f"docs/api.rst leaves out {', '.join(missing)}")


def setup(app: Sphinx) -> None:
    """Have the check run once all pages are read."""
    app.connect("env-check-consistency", check_public_names)
