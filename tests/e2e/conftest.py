"""What the tests of the command share: a tiny model in a folder, and ways to run the command on it."""

from __future__ import annotations

import pytest

from realcustom.apps.cli import main


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


@pytest.fixture
def command(model, tmp_path, monkeypatch, capsys):
    """Run the command in an empty folder that holds the subject's picture; return its exit code and what it said."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments):
        code = main([*arguments, "--model", str(model), "--device", "cpu"])
        return code, capsys.readouterr()

    return command


@pytest.fixture
def generate(command, subject):
    def generate(*extra, prompt="a robot on the beach"):
        return command("generate", "subject.png", prompt, "--word", "robot", "--seed", "7", *extra)

    return generate
