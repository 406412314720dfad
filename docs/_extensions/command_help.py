"""A directive that shows the help of every command, made from its parser."""

import argparse
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from gpustats import cli


class Commands(SphinxDirective):
    """Make a section of each command: what ``gpustats COMMAND --help`` prints."""

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        return [
            self._section(parser)
            for action in cli._parser()._actions
            if isinstance(action, argparse._SubParsersAction)
            for parser in action.choices.values()
        ]

    def _section(self, parser: argparse.ArgumentParser) -> nodes.section:
        """Return the section of one command."""
        section = nodes.section(ids=[nodes.make_id(parser.prog)])
        section += nodes.title("", "", nodes.literal("", parser.prog))
        text = parser.format_help()
        section += nodes.literal_block(text, text, language="text")
        self.state.document.note_explicit_target(section)
        return section


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True}
