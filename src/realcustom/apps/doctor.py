"""`realcustom doctor`: whether what is installed, the devices and a model's files are as they must be."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError
from typing import Any

from realcustom import __version__
from realcustom.apps.tables import aligned, megabytes
from realcustom.errors import CheckFailed, InputError
from realcustom.finding import Place, locate
from realcustom.integrity import FileState, Problem, check, problems
from realcustom.versions import Dependency, dependencies


@dataclass(frozen=True)
class Device:
    """Something that a run could take."""

    name: str
    is_there: bool
    detail: str
    is_taken: bool
    """By a run that names no device."""


@dataclass(frozen=True)
class Findings:
    """All that was looked at, and what is wrong with it."""

    packages: Sequence[Dependency]
    devices: Sequence[Device]
    place: Place
    files: Sequence[FileState]
    problems: Sequence[Problem]


def doctor(model: str, *, as_json: bool) -> None:
    """Print what was found, and for everything that is wrong the command that repairs it.

    Raises:
        InputError: the model's name cannot be one, or is of a hub model that is not in the local cache.
        CheckFailed: something is wrong.
    """
    place = locate(model)
    if place.kind == "hub" and not place.is_there:
        raise InputError(f"there is no model in {place.folder}; fetch it with: hf download {model}")
    found = _findings(place)
    print(json.dumps(_record(found)) if as_json else _text(found))
    if found.problems:
        count = len(found.problems)
        raise CheckFailed(f"{count} {'thing is' if count == 1 else 'things are'} wrong")


def _findings(place: Place) -> Findings:
    packages, package_problems = _packages()
    devices, device_problems = _devices()
    files = check(place)
    return Findings(packages, devices, place, files, [*package_problems, *device_problems, *problems(place, files)])


def _packages() -> tuple[list[Dependency], list[Problem]]:
    try:
        packages = dependencies()
    except PackageNotFoundError:
        reason = "realcustom runs without being installed, so nothing says which versions it needs"
        return [], [Problem(reason, "pip install realcustom")]
    unmet = [one for one in packages if not one.is_met]
    return packages, [
        Problem(f"{one.name} {one.installed or '(not installed)'} is not {one.wanted or 'there'}", one.repair)
        for one in unmet
    ]


def _devices() -> tuple[list[Device], list[Problem]]:
    """Return the devices as torch sees them, or what is wrong if what a run needs of it cannot be loaded."""
    try:
        import torch

        from realcustom.painting import best_device

        cards = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    except (
        ImportError,
        OSError,
        RuntimeError,
        AssertionError,
    ) as error:  # a broken installation or driver
        reason = f"a run cannot start: {type(error).__name__}: {' '.join(str(error).split())}"
        return [], [Problem(reason, "pip install --force-reinstall torch diffusers transformers")]
    threads = torch.get_num_threads()
    there = {
        "cpu": f"{threads} thread{'s' if threads > 1 else ''}",
        "cuda": ", ".join(f"{card.name}, {megabytes(card.total_memory)}" for card in cards),
        "mps": "Apple's GPU" if torch.backends.mps.is_available() else "",
    }
    return [Device(name, bool(detail), detail, name == best_device()) for name, detail in there.items()], []


def _text(found: Findings) -> str:
    place = found.place
    tables: dict[str, list[tuple[str, ...]]] = {
        "packages": [
            (one.name, one.installed or "-", one.wanted, "ok" if one.is_met else "not met") for one in found.packages
        ],
        "devices": [
            (one.name, one.detail or "not there", "taken if no --device is named" if one.is_taken else "")
            for one in found.devices
        ],
        f"model {place.name} ({place.kind}), looked for in {place.folder}": [
            (file.name, "-" if file.size is None else megabytes(file.size), file.state) for file in found.files
        ],
    }
    wrong = [f"  {problem.what}; repair it with: {problem.repair}" for problem in found.problems]
    return "\n\n".join(
        [
            f"realcustom {__version__}, Python {platform.python_version()}",
            *(f"{title}\n{aligned(rows)}" for title, rows in tables.items() if rows),
            "\n".join(["wrong", *wrong]) if wrong else "everything is as it must be",
        ]
    )


def _record(found: Findings) -> dict[str, Any]:
    place = found.place
    files = [
        {"file": file.name, "path": str(file.path), "bytes": file.size, "state": file.state, "why": file.why}
        for file in found.files
    ]
    return {
        "ok": not found.problems,
        "realcustom": __version__,
        "python": platform.python_version(),
        "packages": [{**asdict(one), "met": one.is_met} for one in found.packages],
        "devices": [
            {"name": one.name, "there": one.is_there, "detail": one.detail, "taken": one.is_taken}
            for one in found.devices
        ],
        "model": {"name": place.name, "where": place.kind, "folder": str(place.folder), "files": files},
        "problems": [asdict(problem) for problem in found.problems],
    }
