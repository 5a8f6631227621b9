"""`realcustom completion`: what a shell must know to complete the command."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import shtab


def script(parser: argparse.ArgumentParser, shell: str, file: Callable[[str], Path]) -> str:
    """Return the script that lets a shell complete the commands, options and files of a parser.

    Args:
        parser: of the command.
        shell: bash, zsh or tcsh.
        file: what the parser makes a path with.
    """
    _offer_files(parser, file)
    return shtab.complete(parser, shell)


def _offer_files(parser: argparse.ArgumentParser, file: Callable[[str], Path]) -> None:
    """Mark the arguments that are paths, so that files are offered for them."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _offer_files(command, file)
        elif action.type is file:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
