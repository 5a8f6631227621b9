"""`realcustom completion`: what a shell must know to complete the command."""

from __future__ import annotations

import argparse
from pathlib import Path

import shtab


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script that lets a shell complete the commands, options and files of a parser."""
    _offer_files(parser)
    return shtab.complete(parser, shell)


def _offer_files(parser: argparse.ArgumentParser) -> None:
    """Mark the arguments that are paths, so that files are offered for them."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _offer_files(command)
        elif action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
