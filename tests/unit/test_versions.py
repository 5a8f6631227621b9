from __future__ import annotations

import importlib.metadata

import pytest

from realcustom.versions import Dependency, dependencies, installed_version


@pytest.mark.parametrize(
    ("wanted", "installed", "met"),
    [
        (">=2.6", "2.13.0+cpu", True),
        (">=2.6", "2.5.1", False),
        (">=2.6,<3", "3.0", False),
        (">=0.40", "0.42.0.dev0", True),
        ("", "1", True),
        ("", None, False),
    ],
)
def test_a_range_is_met_by_the_versions_in_it(wanted, installed, met):
    one = Dependency("torch", wanted, installed)
    assert one.is_met is met
    assert one.repair == f'pip install --upgrade "torch{wanted}"'


def test_what_the_package_always_needs_is_listed_with_its_version():
    found = {one.name: one for one in dependencies()}
    assert {"torch", "diffusers", "transformers", "safetensors"} <= found.keys()
    assert not {"accelerate", "pytest"} & found.keys()
    assert found["torch"].installed == importlib.metadata.version("torch")
    assert found["torch"].wanted.startswith(">=")


def test_what_is_not_installed_has_no_version():
    assert installed_version("never-installed") is None
