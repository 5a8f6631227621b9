"""What the tests of the command share: a tiny model in a folder."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def model(tiny, tmp_path_factory):
    """Folder of a tiny model; nobody changes it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny.pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def subject(tiny, tmp_path):
    """A subject's picture in a folder that is otherwise empty."""
    path = tmp_path / "subject.png"
    tiny.subject().save(path)
    return path
