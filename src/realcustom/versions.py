"""Which versions of its dependencies the package asks for, and which are installed."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet


@dataclass(frozen=True)
class Dependency:
    """A distribution that the package needs."""

    name: str
    wanted: str
    """The range, as its metadata has it; '' for any version."""
    installed: str | None
    """None if it is not installed."""

    @property
    def is_met(self) -> bool:
        """Whether a version in the range is installed."""
        return self.installed is not None and SpecifierSet(self.wanted).contains(self.installed, prereleases=True)

    @property
    def repair(self) -> str:
        """The command that installs a version in the range."""
        return f'pip install --upgrade "{self.name}{self.wanted}"'


def dependencies(package: str = "realcustom") -> list[Dependency]:
    """Return what a package always needs here, without its extras, sorted by name.

    Raises:
        importlib.metadata.PackageNotFoundError: the package runs without being installed.
    """
    wanted = [Requirement(line) for line in importlib.metadata.requires(package) or []]
    needed = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    found = [Dependency(one.name, str(one.specifier), installed_version(one.name)) for one in needed]
    return sorted(found, key=lambda one: one.name)


def installed_version(package: str) -> str | None:
    """Return the version of a distribution, None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
