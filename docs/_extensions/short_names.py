"""Docstrings name things by their last name; find which page that is."""

from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, inside: nodes.TextElement
) -> nodes.reference | None:
    """Return the reference to the one documented name that ends like this, if there is one."""
    if node.get("refdomain") != "py":
        return None
    ending = "." + node["reftarget"].removeprefix("gpustats.")
    objects = env.get_domain("py").objects
    pages = {
        (entry.docname, entry.node_id) for name, entry in objects.items() if name.endswith(ending)
    }
    if len(pages) != 1:
        return None
    page, target = pages.pop()
    return make_refnode(app.builder, node["refdoc"], page, target, inside, node["reftarget"])


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the resolver."""
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True}
