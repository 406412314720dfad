"""A directive that shows the help of every command, as the command itself prints it."""

import argparse
from contextlib import redirect_stdout, suppress
from io import StringIO
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from gpustats import cli


def names_of_commands() -> list[str]:
    """Name the commands, in the order of ``gpustats --help``."""
    actions = cli._parser()._actions
    commands = [action for action in actions if isinstance(action, argparse._SubParsersAction)]
    return [name for action in commands for name in action.choices]


def help_of(*words: str) -> str:
    """Return what ``gpustats WORDS --help`` prints."""
    printed = StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        cli.main([*words, "--help"])
    return printed.getvalue()


class Commands(SphinxDirective):
    """Make a section of each command: what ``gpustats COMMAND --help`` prints."""

    def run(self) -> list[nodes.Node]:
        """Return the sections, after the help of ``gpustats`` itself."""
        text = help_of()
        overview = nodes.literal_block(text, text, language="text")
        return [overview, *map(self._section, names_of_commands())]

    def _section(self, name: str) -> nodes.section:
        """Return the section of one command."""
        section = nodes.section(ids=[nodes.make_id(f"gpustats {name}")])
        section += nodes.title("", "", nodes.literal("", f"gpustats {name}"))
        text = help_of(name)
        if not text:
            raise self.error(f"gpustats {name} --help prints nothing")
        section += nodes.literal_block(text, text, language="text")
        self.state.document.note_explicit_target(section)
        return section


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True}
