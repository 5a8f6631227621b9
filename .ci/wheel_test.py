"""Builds the wheel, installs it where there is nothing else, and makes a picture far from the source tree.

    python .ci/wheel_test.py [--torch REQUIREMENT] [--torch-index URL]

The Python that runs it needs the module `build`. No model can be downloaded meanwhile: the hub is switched off and its
cache is empty.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"

GENERATE = ("generate", "robot.png", "a robot on the beach", "--word", "robot", "--seed", "7", "--output", "new.png")

LOOK = """
from PIL import Image
picture = Image.open("new.png")
assert (picture.format, picture.size) == ("PNG", (128, 128)), (picture.format, picture.size)
assert any(low < high for low, high in picture.convert("RGB").getextrema()), "the picture is of one colour"
"""


def run(*command: str | Path, folder: Path, **variables: str) -> None:
    """Run a command in a folder, without what this process's environment may say of Python's own folders."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    subprocess.run(command, cwd=folder, env={**environment, **variables}, check=True)


def build(folder: Path) -> Path:
    """Return the wheel, made by way of the source distribution, as a release is."""
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, folder=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def check_content(wheel: Path) -> None:
    """Look for every file of the models, and for what belongs neither to the package nor to its metadata."""
    held = set(zipfile.ZipFile(wheel).namelist())
    models = [path for path in (SOURCE / "realcustom" / "models").rglob("*") if path.is_file()]
    missing = {path.relative_to(SOURCE).as_posix() for path in models} - held
    assert models
    assert not missing, f"the wheel lacks {sorted(missing)}"
    metadata = f"{wheel.name.rsplit('-', 3)[0]}.dist-info"
    strays = {name for name in held if name.split("/")[0] not in ("realcustom", metadata)}
    assert not strays, f"the wheel holds {sorted(strays)}"


def install(folder: Path, torch: Sequence[str], wheel: Path) -> Path:
    """Return the folder of the programs of a new environment that holds torch and the wheel."""
    run(sys.executable, "-m", "venv", "venv", folder=folder)
    programs = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    pip = (programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    for what in (torch, [str(wheel)]):
        run(*pip, "--no-compile", *what, folder=folder)  # the few modules that are used are compiled soon enough
    return programs


def main() -> None:
    """Build, install, make the picture and look at it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", default="torch", metavar="REQUIREMENT")
    parser.add_argument("--torch-index", metavar="URL")
    options = parser.parse_args()
    index = ["--index-url", options.torch_index] if options.torch_index else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build(folder)
        check_content(wheel)
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.0f} MB")
        programs = install(folder, [*index, options.torch], wheel)
        outside = folder / "outside"
        outside.mkdir()
        shutil.copy(ROOT / "examples" / "robot.png", outside)
        run(programs / "realcustom", *GENERATE, folder=outside, HF_HUB_OFFLINE="1", HF_HOME=str(outside / "hub"))
        run(programs / "python", "-c", LOOK, folder=outside)


if __name__ == "__main__":
    main()
