"""The documents name what is there."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from realcustom.apps.cli import _parser

ROOT = Path(__file__).parents[1]
ROWS = [
    [cell.strip() for cell in line.strip("|\n").split("|")]
    for line in (ROOT / "docs" / "paper-map.md").read_text().split("## What one step does")[0].splitlines()
    if line.startswith("|") and "`" in line
]


def ids(row):
    return row[0]


def found(name: str) -> object:
    """What a dotted name below `realcustom` stands for."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(["realcustom", *parts[:end]]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            thing = getattr(thing, part)
        return thing
    raise ModuleNotFoundError(name)


def test_the_paper_map_has_every_equation():
    told = {int(number) for row in ROWS for number in re.findall(r"\d+", row[0]) if not row[0].startswith("section")}
    assert told == set(range(1, 14)) - {3}  # RC 3 is the softmax attention of the base


@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_every_function_of_the_paper_map_exists(row):
    module = ""
    for name in re.findall(r"`([^`]+)`", row[2]):
        module = name.rsplit(".", 1)[0] if "." in name else module
        assert callable(found(name if "." in name else f"{module}.{name}"))


@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_every_test_of_the_paper_map_exists(row):
    for name in re.findall(r"`([^`]+)`", row[3]):
        assert (ROOT / name).is_file()


@pytest.mark.parametrize("document", ["README.md", "docs/training.md", "docs/data.md", "docs/evaluation.md"])
def test_every_command_in_the_documents_is_understood(document):
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    commands = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    commands = [command for command in commands if command and command[0] == "realcustom"]
    assert commands
    for command in commands:
        _parser().parse_args(command[1:])


def test_every_link_inside_the_documents_leads_somewhere():
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
