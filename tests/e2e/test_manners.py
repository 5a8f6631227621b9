"""How the command behaves beside its work: help, interrupts, closed outputs, full disks, and what it says of them."""

from __future__ import annotations

import argparse
import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import diffusers
import pytest
import torch
from PIL import Image

from realcustom.apps.cli import _parser, main
from realcustom.apps.evaluate import Progress

HEAVY = {"torch", "numpy", "diffusers", "transformers", "PIL"}

HELP = """
import contextlib, io, json, sys
from realcustom.apps.cli import main
said = {}
for command in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main([*command, "--help"])
    said[" ".join(command)] = {"text": out.getvalue(), "modules": list(sys.modules)}
print(json.dumps(said))
"""


def commands(parser: argparse.ArgumentParser, *before: str) -> Iterator[tuple[str, ...]]:
    """The program itself, its commands and theirs."""
    yield before
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from commands(inner, *before, name)


COMMANDS = list(commands(_parser()))
every_command = pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command) or "realcustom")


@pytest.fixture(scope="module")
def helped():
    done = subprocess.run(
        [sys.executable, "-c", HELP, json.dumps(COMMANDS)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.fixture
def generate(tiny, model, tmp_path, capsys):
    """Run `generate` into tmp_path/new.png; return code, what was said, and the names in tmp_path afterwards."""
    tiny.subject().save(tmp_path / "subject.png")

    def generate(*extra):
        arguments = ["generate", str(tmp_path / "subject.png"), "a robot on the beach", "--word", "robot"]
        code = main([*arguments, "--model", str(model), "--device", "cpu", "-o", str(tmp_path / "new.png"), *extra])
        return code, capsys.readouterr(), {path.name for path in tmp_path.iterdir()}

    return generate


def program(*arguments: str | bytes, **options: object) -> subprocess.Popen:
    """The command as a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "realcustom", *arguments], stderr=subprocess.PIPE, **options)


def while_denoising(monkeypatch, happen):
    monkeypatch.setattr(diffusers.UNet2DConditionModel, "forward", lambda *_, **__: happen())


def throw(error: BaseException):
    raise error


class TestHelp:
    @every_command
    def test_imports_nothing_heavy(self, helped, command):
        assert not HEAVY & set(helped[" ".join(command)]["modules"])

    @every_command
    def test_shows_examples_that_are_understood(self, helped, command):
        text = helped[" ".join(command)]["text"]
        examples = [shlex.split(line) for line in text.partition("examples:\n")[2].splitlines()]
        assert examples
        for name, *arguments in examples:
            assert name == "realcustom"
            assert tuple(arguments[: len(command)]) == command
            redirected = arguments.index(">") if ">" in arguments else None
            _parser().parse_args(arguments[:redirected])

    @every_command
    def test_names_no_default_that_is_no_value(self, helped, command):
        assert not {"None", "False", "True", "[]"} & set(helped[" ".join(command)]["text"].replace(")", " ").split())


class TestInterrupt:
    @pytest.fixture(autouse=True)
    def heard(self):
        """Whoever runs the tests in the background may have had them ignore interrupts."""
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        signal.signal(signal.SIGINT, before)

    def test_between_two_steps(self, generate, monkeypatch):
        while_denoising(monkeypatch, lambda: signal.raise_signal(signal.SIGINT))
        code, said, there = generate()
        assert (code, said.err, there) == (130, "realcustom: interrupted\n", {"subject.png"})

    def test_in_the_middle_of_writing(self, generate, monkeypatch):
        def save(picture, stream, *_, **__):
            stream.write(b"\x89PNG")
            signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(Image.Image, "save", save)
        code, said, there = generate()
        assert (code, said.err, there) == (130, "realcustom: interrupted\n", {"subject.png"})


class TestOutput:
    @pytest.mark.parametrize("unbuffered", ["", "1"])
    @pytest.mark.parametrize("arguments", [("completion", "bash"), ("--help",)], ids=" ".join)
    def test_whose_reader_is_gone_ends_quietly(self, arguments, unbuffered):
        process = program(*arguments, stdout=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": unbuffered})
        process.stdout.close()
        said = process.stderr.read()
        swallowed = unbuffered and arguments == ("--help",)  # by argparse
        assert (process.wait(), said) == (0 if swallowed else 1, b"")

    @pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="there is no /dev/full here")
    @pytest.mark.parametrize("unbuffered", ["", "1"])
    def test_that_cannot_be_written_is_one_line(self, unbuffered):
        with open("/dev/full", "wb") as full:
            process = program("completion", "bash", stdout=full, env={**os.environ, "PYTHONUNBUFFERED": unbuffered})
            said = process.stderr.read()
        assert (process.wait(), said) == (1, b"realcustom: No space left on device\n")

    @pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
    def test_in_another_encoding_takes_any_letter(self, encoding):
        env = {**os.environ, "PYTHONIOENCODING": encoding}
        process = program("words", "a robot \U0001f916", stdout=subprocess.PIPE, env=env)
        out, said = process.communicate()
        assert (process.returncode, said) == (0, b"")
        assert out.splitlines()[1].startswith(b"robot")
        process = program("generate", "\u732b.png", "a \u732b", "--word", "\u732b", stdout=subprocess.PIPE, env=env)
        said = process.communicate()[1]
        assert (process.returncode, said) == (2, b"realcustom: there is no picture \\u732b.png\n")

    def test_that_was_closed_before_is_no_error(self, monkeypatch):
        monkeypatch.setattr(sys, "stdout", None)
        assert main(["completion", "bash"]) == 0

    def test_in_a_file_has_no_progress_bar(self, generate):
        said = generate()[1].err
        assert not [sign for sign in ("\r", "it/s", "3/3") if sign in said]

    def test_on_a_terminal_has_a_progress_bar(self, generate, monkeypatch):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        assert "3/3" in generate()[1].err

    def test_of_an_evaluation_is_one_line_a_row_in_a_file(self, capsys):
        progress = Progress()
        for done in (8, 16, 32, 32, 40):
            progress.say("subject", done, 40)
        assert capsys.readouterr().err == "subject: 40 of 40\n"

    def test_of_an_evaluation_ends_with_what_the_whole_list_would_cost(self, capsys, monkeypatch):
        times = iter([100.0, 101.0, 133.0, 140.0, 156.0])
        monkeypatch.setattr("realcustom.apps.evaluate.time.monotonic", lambda: next(times))
        progress = Progress()
        progress.say("subject", 8, 40)  # these were there
        progress.say("subject", 24, 40)
        progress.say("twin", 0, 40)
        progress.say("twin", 16, 40)
        progress.tell({"subject": 1800, "twin": 900})
        told = "2.00 s a picture of 1800 (subject), 1.00 s a picture of 900 (twin): 1.2 h for the whole list\n"
        assert capsys.readouterr().err == told

    def test_of_an_evaluation_says_nothing_of_cost_where_no_picture_was_made(self, capsys):
        progress = Progress()
        progress.say("subject", 40, 40)
        progress.tell({"subject": 1800})
        assert capsys.readouterr().err == "subject: 40 of 40\n"


class TestTheMachine:
    @pytest.mark.parametrize(
        "fail",
        [
            lambda: throw(MemoryError()),
            lambda: throw(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")),
            lambda: throw(RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.")),
            lambda: torch.empty(2**50, dtype=torch.uint8),
        ],
        ids=["python", "cuda", "windows", "here"],
    )
    def test_without_memory_says_what_to_lower(self, generate, monkeypatch, fail):
        while_denoising(monkeypatch, fail)
        code, said, there = generate()
        assert said.err == "realcustom: not enough memory; lower --num-images, or --width and --height\n"
        assert (code, there) == (1, {"subject.png"})

    @pytest.mark.parametrize(
        ("error", "told"),
        [
            (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
            (OSError(errno.EIO, "Input/output error", "weights"), "weights: Input/output error"),
            (OSError("no route to the registry"), "no route to the registry"),
        ],
    )
    def test_that_fails_is_one_line(self, generate, monkeypatch, error, told):
        while_denoising(monkeypatch, lambda: throw(error))
        code, said, there = generate()
        assert (code, said.err, there) == (1, f"realcustom: {told}\n", {"subject.png"})

    def test_that_cannot_keep_tensors_is_one_line(self, generate, monkeypatch, tmp_path):
        from safetensors.torch import save_file

        while_denoising(monkeypatch, lambda: save_file({"a": torch.zeros(1)}, tmp_path / "absent" / "weights"))
        code, said, _ = generate()
        assert code == 1
        assert "os error" in said.err
        assert said.err.count("\n") == 1

    @pytest.mark.parametrize(
        "error", [RuntimeError("shapes differ"), TypeError("a bug"), ModuleNotFoundError("none", name="realcustom.no")]
    )
    def test_is_not_blamed_for_bugs(self, generate, monkeypatch, error):
        while_denoising(monkeypatch, lambda: throw(error))
        with pytest.raises(type(error), match=str(error)):
            generate()


class TestArguments:
    def test_that_are_not_utf_8_are_wrong_input(self):
        process = program("words", b"a \xff robot")
        said = process.stderr.read()
        assert process.wait() == 2
        assert (
            said == b"realcustom: the argument 'a \\udcff robot' is not UTF-8; write it, or name the file, in UTF-8\n"
        )

    def test_may_be_given_in_any_directory(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        assert main(["words", "a robot"]) == 0
        assert "robot" in capsys.readouterr().out
        process = program("--version", stdout=subprocess.PIPE, cwd=tmp_path)
        assert process.communicate()[0].startswith(b"realcustom ")
        assert process.returncode == 0


class TestCompletion:
    @pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
    def test_knows_every_command(self, shell, capsys):
        assert main(["completion", shell]) == 0
        script = capsys.readouterr().out
        assert all(command[0] in script for command in COMMANDS if command)

    @pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
    @pytest.mark.parametrize(
        ("typed", "offered"),
        [
            (("gen",), "generate"),
            (("generate", "--sub"), "--subject --subject-guidance-scale --subject-scale"),
            (("train", "--config", "rec"), "recipe.yaml"),
            (("words", "--model", "rec"), ""),
        ],
    )
    def test_completes_in_bash(self, typed, offered, tmp_path, capsys):
        (tmp_path / "recipe.yaml").touch()
        main(["completion", "bash"])
        words = shlex.join(["realcustom", *typed])
        ask = f'COMP_WORDS=({words}); COMP_CWORD={len(typed)}; _shtab_realcustom; echo "${{COMPREPLY[@]}}"'
        done = subprocess.run(
            ["bash", "-c", capsys.readouterr().out + ask], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == offered

    def test_without_its_extra_says_what_to_install(self, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "shtab", None)
        monkeypatch.delitem(sys.modules, "realcustom.apps.completion", raising=False)
        assert main(["completion", "bash"]) == 1
        assert 'pip install "realcustom[completion]"' in capsys.readouterr().err
