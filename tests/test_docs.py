"""The documents name what is there, and what they tell the reader to type works."""

from __future__ import annotations

import importlib
import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from PIL import Image

from realcustom import RealCustomPipeline, __version__
from realcustom.apps.cli import _parser, main
from realcustom.apps.train import _PARTS
from realcustom.options import load_options
from realcustom.training.package import PackageRecipe

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "examples/*.md", "src/realcustom/models/*/*.md")
    for path in sorted(ROOT.glob(pattern))
]
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
    assert told == set(range(1, 14))


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


NOT_EXECUTED = {
    "make demo": "makes an environment of its own; .ci/run calls make",
    "make test": "is this very run",
    "make bench": "takes an hour or more on two cores; tests/unit/test_branches.py has every way of running, on a toy model",
    "python benchmarks/memory.py": "builds every family at full size, without numbers, and takes a minute",
    "make check": "a check beside the tests",
    "make fix": "changes the files",
    "make wheel-test": "makes an environment of its own; .ci/run calls it",
    "pip install": "changes the environment",
    "realcustom data": "downloads; tests/unit/test_drawings.py has what it does, on small archives",
    "realcustom train": "takes hours; tests/e2e/test_whole_way.py trains every part of a toy model",
    "realcustom convert": "needs the authors' files; tests/e2e/test_official_files.py has some at toy size",
    "python benchmarks/ablations.py": "takes hours and the drawings; tests/e2e/test_whole_way.py runs one table of a toy",
    "python benchmarks/choices.py": "takes two hours; tests/e2e/test_whole_way.py runs some rows of a toy",
    "python benchmarks/fits.py": "needs evaluations; tests/e2e/test_whole_way.py has one of a toy",
    "python benchmarks/full_size.py": "needs 7 GB and minutes; tests/unit/test_bases.py has the same at toy size",
    "# SDXL and RealCustom++, on a GPU": "fetches SDXL; tests/unit/test_bases.py loads an adapter on a saved base",
    "from diffusers import StableDiffusionXLPipeline": "fetches SDXL; tests/unit/test_stock_pipelines.py has the same calls",
    "ray start": "starts a server; tests/unit/test_cluster.py makes pictures on a cluster of two local workers",
    "realcustom compare": "needs evaluations; tests/unit/test_comparison.py has some",
    "for": "is realcustom evaluate, once for each value",
    "realcustom evaluate": "takes hours and the drawings; tests/unit/test_evaluation.py has a toy",
}
"""How commands, or the first lines of Python blocks, begin that are not executed here, and why not."""

OTHER_LANGUAGES = {"bibtex", "json", "text", "yaml"}
"""What a block may hold that nobody types."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    document: str
    line: int
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The lines of a shell block without comments; a line that ends in a backslash goes on."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if shlex.split(line, comments=True)]

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def blocks_of(document: str) -> list[Block]:
    text = (ROOT / document).read_text("utf-8")
    return [
        Block(document, text[: found.start()].count("\n") + 2, found[1], found[2])
        for found in re.finditer(r"^```(.*)\n((?:.*\n)*?)^```$", text, re.MULTILINE)
    ]


def reason_not_to(command: str) -> str | None:
    return next((NOT_EXECUTED[start] for start in NOT_EXECUTED if f"{command} ".startswith(f"{start} ")), None)


BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document)]
SHELL = [block for block in BLOCKS if block.language == "sh"]
PYTHON = [block for block in BLOCKS if block.language == "python"]
TRAININGS = [command for block in SHELL for command in block.commands if command.startswith("realcustom train ")]


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """Someone in a folder of their own with the examples, whose models take two steps if they are not told how many."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    load = RealCustomPipeline.from_pretrained
    monkeypatch.setattr(
        RealCustomPipeline, "from_pretrained", lambda *names, **options: load(*names, num_inference_steps=2, **options)
    )
    return tmp_path


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block_is_of_a_language_that_is_looked_at(block):
    assert block.language in {"sh", "python", *OTHER_LANGUAGES}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_fence_is_seen(document):
    assert (ROOT / document).read_text("utf-8").count("```") == 2 * len(blocks_of(document))


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_every_command_in_the_documents_is_understood(block):
    for command in block.commands:
        name, *arguments = shlex.split(command, comments=True)
        if name == "realcustom":
            _parser().parse_args(arguments)


@pytest.mark.parametrize("command", TRAININGS)
def test_every_training_in_the_documents_has_a_recipe_that_can_be_used(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    options = _parser().parse_args(shlex.split(command, comments=True)[1:])
    recipe = PackageRecipe if options.part == "package" else _PARTS[options.part][0]
    load_options(recipe, options.config, options.overrides)


@pytest.mark.parametrize("document", sorted({block.document for block in SHELL}))
def test_shell_blocks_work_one_after_another(document, reader):
    for command in [command for block in SHELL if block.document == document for command in block.commands]:
        if reason_not_to(command):
            continue
        name, *arguments = shlex.split(command, comments=True)
        assert name == "realcustom", f"{command!r} is neither executed nor in NOT_EXECUTED"
        fewer = ["--steps", "2"] if arguments[0] == "generate" else []  # if the line itself names a number
        assert main([*arguments, *fewer]) == 0, command


@pytest.mark.parametrize("document", sorted({block.document for block in PYTHON}))
def test_python_blocks_work_one_after_another(document, reader):
    names: dict[str, object] = {"__name__": "__main__"}
    blocks = [block for block in PYTHON if block.document == document]
    for block in blocks:
        if not reason_not_to(block.text.splitlines()[0]):
            lines = "\n" * (block.line - 1)  # so that a traceback names the document's line
            exec(compile(lines + block.text, ROOT / document, "exec"), names)
    for name in re.findall(r"\.save\(\"(\S+\.png)\"\)", "".join(block.text for block in blocks)):
        Image.open(reader / name).load()


def test_nothing_is_excused_that_no_document_says():
    said = [command for block in SHELL for command in block.commands]
    said += [block.text.splitlines()[0] for block in PYTHON]
    assert {start for start in NOT_EXECUTED if not any(f"{line} ".startswith(f"{start} ") for line in said)} == set()


def test_every_link_inside_the_documents_leads_somewhere():
    for name in DOCUMENTS:
        document = ROOT / name
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text("utf-8")):
            assert (document.parent / target).exists(), f"{name}: {target}"


def test_the_citation_is_of_this_software_and_of_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert citation["cff-version"] == "1.2.0"
    assert citation["title"] == project["name"]
    assert citation["version"] == __version__
    assert citation["license"] == project["license"]
    assert citation["preferred-citation"]["url"] == project["urls"]["Paper"]


def test_the_changelog_keeps_its_form():
    titles = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert titles[0] == "Unreleased"
    assert set(re.findall(r"^### (.+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)) <= {
        "Added", "Changed", "Deprecated", "Removed", "Fixed", "Security",
    }  # fmt: skip
