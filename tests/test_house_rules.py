"""What every file of the package keeps to."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "realcustom"
LAYERS = (
    ("errors", "files", "options", "checks"),
    ("masks", "guidance", "placement", "prompts", "schedule", "scoring"),
    ("projector", "attention", "latents", "vision", "settings"),
    ("adapter",),
    ("customization", "convert"),
    ("branches",),
    ("pictures", "finding", "versions"),
    ("portrait", "integrity", "licenses"),
    ("report", "loading", "saved_subject"),
    ("subject",),
    ("subject_encoder",),
    ("pipeline",),
    ("stock_pipelines",),
    ("provenance", "painting"),
    ("data",),
    ("evaluation",),
    ("training",),
    ("apps", "__main__", "__init__"),
)
"""From the bottom to the top: a module imports from its own layer and from those before it."""

FILES = sorted(SOURCE.rglob("*.py"))
files = pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())


def nodes(path: Path, *kinds: type[ast.AST]) -> list:
    return [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, kinds)]


def layer_of(module: str) -> int:
    found = [number for number, modules in enumerate(LAYERS) if module in modules]
    assert found, f"the module {module} is in no layer"
    return found[0]


def imported(path: Path) -> set[str]:
    """Names below `realcustom.` that a file imports, wherever in the file."""
    found = {alias.name for node in nodes(path, ast.Import) for alias in node.names}
    for node in nodes(path, ast.ImportFrom):
        assert node.level == 0, f"{path} imports relatively"
        found |= {f"{node.module}.{alias.name}" for alias in node.names}
    modules = {name.split(".")[1] for name in found if name.startswith("realcustom.")}
    return modules - {"__version__"}


@files
def test_imports_point_downward(path):
    module = path.relative_to(SOURCE).with_suffix("").parts[0]
    upward = {name for name in imported(path) if layer_of(name) > layer_of(module)}
    assert not upward


@files
def test_only_the_apps_print(path):
    calls = [node for node in nodes(path, ast.Call) if isinstance(node.func, ast.Name) and node.func.id == "print"]
    assert not calls or path.relative_to(SOURCE).parts[0] == "apps"


@files
def test_nothing_is_unpickled_or_loaded_loosely(path):
    loads = [
        ast.unparse(node) for node in nodes(path, ast.Attribute)
        if node.attr == "load" and ast.unparse(node.value) in ("torch", "pickle", "np", "numpy")
    ]  # fmt: skip
    pickles = [
        ast.unparse(node) for node in nodes(path, ast.Import, ast.ImportFrom)
        if any("pickle" in alias.name for alias in node.names) or "pickle" in (getattr(node, "module", None) or "")
    ]  # fmt: skip
    loose = [
        ast.unparse(node.value) for node in nodes(path, ast.keyword)
        if node.arg == "strict" and isinstance(node.value, ast.Constant) and node.value.value is False
    ]  # fmt: skip
    if path == SOURCE / "convert.py":  # the only place, and even there nothing of a pickle is run
        calls = [node for node in nodes(path, ast.Call) if ast.unparse(node.func) == "torch.load"]
        assert len(calls) == 1
        assert [ast.unparse(one) for one in calls[0].keywords if one.arg == "weights_only"] == ["weights_only=True"]
        loads = loads[1:]
        assert not any(node.attr in ("loads", "Unpickler") for node in nodes(path, ast.Attribute))
    assert loads + pickles + loose == []


CONNECTED = {
    "loading.py": {"huggingface_hub"},
    "finding.py": {"huggingface_hub"},  # which looks into the cache alone
    "evaluation/cluster.py": {"ray"},
    "data/stickers/drawings.py": {"urllib"},
}
"""The files that may import what opens connections."""

FETCHING = {"apps/convert.py", "data/stickers/text_encoder.py"}
"""The files in which transformers may fetch what somebody has named."""

CONNECTING = {
    "aiohttp", "asyncio", "ftplib", "http", "httpx", "huggingface_hub", "ray", "requests", "smtplib", "socket", "ssl", "urllib",
    "urllib3", "xmlrpc",
}  # fmt: skip


@files
def test_only_some_files_open_connections(path):
    name = path.relative_to(SOURCE).as_posix()
    imports = {alias.name.split(".")[0] for node in nodes(path, ast.Import) for alias in node.names}
    imports |= {(node.module or "").split(".")[0] for node in nodes(path, ast.ImportFrom)}
    assert imports & CONNECTING == CONNECTED.get(name, set())
    calls = [node for node in nodes(path, ast.Call) if isinstance(node.func, ast.Attribute)]
    loads = [ast.unparse(node) for node in calls if node.func.attr == "from_pretrained"]
    own = ("RealCustomPipeline.", "torch.nn.Embedding.", "component.from_pretrained(None,")  # the latter two of tensors
    fetching = [load for load in loads if "local_files_only=True" not in load and not load.startswith(own)]
    assert not fetching or name in FETCHING


@files
def test_files_are_written_whole(path):
    """By `files.write_whole` and the like. Of trainings whole folders take the place of others, and logs grow."""
    written = [
        node.attr for node in nodes(path, ast.Attribute) if node.attr in ("write_text", "write_bytes", "mkstemp")
    ]
    module = path.relative_to(SOURCE).parts[0]
    assert not written or module in ("files.py", "training")


def test_importing_the_package_is_light():
    code = "import realcustom, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "diffusers", "transformers", "numpy"} & set(done.stdout.split())
