"""Lists of pictures to make: read, checked before anything is made, worked off, and gone on with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from realcustom.apps import batch
from realcustom.apps.cli import main
from realcustom.apps.lists import read_rows
from realcustom.errors import InputError
from realcustom.provenance import KEY

LIST = """subject,word,prompt,seed,steps
subject.png,robot,a robot on the beach,7,
subject.png,toy,"a toy, in the snow",,2
"""


def pixels(path: Path | str) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def rows_of(name: str, *rows: dict) -> str:
    """Write a list of rows; return its name."""
    texts = {".jsonl": "\n".join(map(json.dumps, rows)), ".yaml": yaml.safe_dump(list(rows))}
    Path(name).write_text(texts[Path(name).suffix])
    return name


def robot(**more: object) -> dict:
    return {"subject": "subject.png", "word": "robot", "prompt": "a robot", **more}


class TestBatch:
    def test_makes_every_row_and_a_sheet(self, generate, command):
        Path("list.csv").write_text(LIST)
        code, said = command("batch", "list.csv", "-o", "out", "--json")
        told = json.loads(said.out)
        assert code == 0
        assert told["made"] == 2
        assert [(one["settings"]["seed"], one["settings"]["num_inference_steps"]) for one in told["pictures"]] == [
            (7, 3),
            (2, 2),
        ]
        assert generate("-o", "alone.png")[0] == 0
        assert (pixels("out/0001-a-robot-on-the-beach.png") == pixels("alone.png")).all()
        assert pixels(told["sheet"]).shape[0] > 64

    def test_goes_on_where_it_was_killed(self, command, subject, monkeypatch):
        Path("list.jsonl").write_text(
            "\n".join(
                json.dumps({"subject": "subject.png", "word": "robot", "prompt": f"a {colour} robot"})
                for colour in ("red", "orange", "wooden")
            )
        )
        original, saved = batch.save, []

        def save(picture, path, provenance):
            if len(saved) == 1:
                raise KeyboardInterrupt
            saved.append(path)
            original(picture, path, provenance)

        monkeypatch.setattr(batch, "save", save)
        assert command("batch", "list.jsonl", "-o", "out")[0] == 130
        assert [path.name for path in Path("out").iterdir()] == ["0001-a-red-robot.png"]
        monkeypatch.setattr(batch, "save", original)
        before = Path("out/0001-a-red-robot.png").read_bytes()
        code, said = command("batch", "list.jsonl", "-o", "out", "--json")
        assert code == 0
        assert json.loads(said.out)["made"] == 2
        assert Path("out/0001-a-red-robot.png").read_bytes() == before
        assert len(list(Path("out").iterdir())) == 4

    def test_pictures_of_other_settings_are_not_taken_for_its_own(self, command, subject):
        Path("list.yaml").write_text("- {subject: subject.png, word: robot, prompt: a robot}\n")
        assert command("batch", "list.yaml", "-o", "out")[0] == 0
        code, said = command("batch", "list.yaml", "-o", "out", "--steps", "2")
        assert code == 2
        assert "was made with another steps (3 instead of 2); name another --output" in said.err

    def test_a_picture_of_another_mask_mode_is_named_as_such(self, command, subject):
        Image.linear_gradient("L").save("mask.png")
        rows = rows_of("list.yaml", robot(mask="mask.png"))
        assert command("batch", rows, "-o", "out")[0] == 0
        rows = rows_of("list.yaml", robot(mask="mask.png", **{"mask-mode": "union"}))
        code, said = command("batch", rows, "-o", "out")
        assert (code, "was made with another mask-mode (replace instead of union);" in said.err) == (2, True)

    def test_pictures_of_other_numbers_are_not_taken_for_its_own(self, tiny, command, subject, capsys):
        """Of a model whose weights are the same in both."""
        tiny.pipeline().to(torch.bfloat16).save_pretrained("rounded")
        rows = rows_of("list.jsonl", robot())
        made = ["batch", rows, "-o", "out", "--model", "rounded", "--device", "cpu"]
        assert main(made) == 0
        assert main([*made, "--dtype", "bfloat16"]) == 2
        assert "was made in float32, not in bfloat16" in capsys.readouterr().err

    def test_what_no_row_reads_is_refused(self, command, subject):
        rows = rows_of("list.jsonl", robot(guidance="direct"), robot(prompt="a red robot", guidance="direct"))
        code, said = command("batch", rows, "-o", "out", "--subject-guidance-scale", "2")
        assert (code, Path("out").exists()) == (2, False)
        assert said.err.startswith("realcustom: --subject-guidance-scale would have no effect")
        rows = rows_of("list.jsonl", robot(guidance="direct"), robot(prompt="a red robot"))
        assert command("batch", rows, "-o", "out", "--subject-guidance-scale", "2")[0] == 0
        rows = rows_of("list.jsonl", robot(steps=2, seed=1), robot(prompt="a red robot", steps=2, seed=2))
        code, said = command("batch", rows, "-o", "other", "--steps", "3")
        assert (code, Path("other").exists()) == (2, False)
        assert "--steps would have no effect, because each row of the list says it itself" in said.err

    def test_all_wrong_rows_are_named_before_anything_is_made(self, command, subject):
        rows = [
            {"subject": "absent.png", "word": "robot", "prompt": "a robot"},
            {"subject": "subject.png", "word": "robot", "prompt": "a robot"},
            {"subject": "subject.png", "word": "cat", "prompt": "a robot"},
            {"subject": "subject.png", "word": "robot", "prompt": "a robot", "step": 3},
            {"subject": "subject.png", "prompt": "a robot"},
            {"subject": "subject.png", "word": "robot", "prompt": "a robot", "height": 33},
            {"subject": "subject.png", "word": "robot", "prompt": "a robot", "scheduler": 5},
            {"subject": "subject.png", "word": "robot", "prompt": "a robot", "mask-mode": "union"},
        ]
        Path("list.jsonl").write_text("\n".join(map(json.dumps, rows)))
        code, said = command("batch", "list.jsonl", "-o", "out")
        assert code == 2
        for message in (
            "row 1: there is no picture",
            "row 3: ",
            "row 4: there is no option 'step'",
            "row 5: it has no word",
            "row 6: height must be",
            "row 7: scheduler must be a name",
            "row 8: it has mask-mode, but no mask",
        ):
            assert message in said.err
        assert "row 2" not in said.err
        assert not Path("out").exists()

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"subject-scale": 1e9}, "subject-scale must be a number from -1000 to 1000"),
            ({"steps": 1, "scheduler": "pndm"}, "PNDMScheduler cannot take steps 1"),
            ({"subject": "float.tif"}, "float.tif cannot be used: its levels (mode F)"),
            ({"mask": "float.tif"}, "float.tif cannot be used: its levels (mode F)"),
            ({"mask": "subject.png", "mask-scope": 0.2}, "mask-scope would have no effect"),
            ({"mask": "subject.png", "mask_mode": "replace", "mask_binary": True}, "mask-binary would have no effect"),
            ({"mask": "subject.png", "mask_yields": True}, "mask-yields would have no effect"),
            ({"mask": "subject.png", "mask-frozen-after": 1}, "mask-frozen-after would have no effect"),
            (
                {"guidance": "direct", "subject-guidance-scale": 2},
                "subject-guidance-scale would have no effect, because guidance is direct",
            ),
            (
                {"mask": "subject.png", "mask_mode": "add"},
                "mask-mode: input should be 'replace', 'intersect' or 'union'",
            ),
            ({"mask": 3}, "mask must be a text, but is 3"),
            ({"prompt": ["a robot"]}, "prompt must be a text, but is ['a robot']"),
            ({"word": 7}, "word must be a text, but is 7"),
            ({"subject": {"a": "b"}}, "subject must be a text"),
            ({"seed": True}, "seed cannot be true or false"),
            ({"prompt": "a \ud800 robot"}, "prompt holds half a character, 'a \\ud800 robot'"),
            ({"negative-prompt": "\udfff"}, "negative-prompt holds half a character"),
            ({"color": "red"}, "There are prompt, word, occurrence,"),
            ({"color": "red"}, "height, mask, mask-mode."),
            ({"maskmode": "union"}, "Did you mean 'mask-mode'"),
            ({"prompt": "a robot, a robot"}, "choose one with occurrence 1 to 2"),
        ],
    )
    def test_a_row_that_cannot_be_used_is_named_before_anything_is_made(self, command, subject, row, message):
        Image.new("F", (8, 6)).save("float.tif")
        code, said = command("batch", rows_of("list.jsonl", robot(), robot(**row)), "-o", "out")
        assert code == 2
        assert said.err.startswith("realcustom: row 2: ")
        assert message in said.err
        assert said.err.count("\n") == 1
        assert not Path("out").exists()

    def test_half_a_character_in_yaml_is_named(self, command, subject):
        Path("list.yaml").write_text('- {subject: subject.png, word: robot, prompt: "a \\ud800 robot"}')
        code, said = command("batch", "list.yaml", "-o", "out")
        assert code == 2
        assert "row 1: prompt holds half a character" in said.err

    def test_names_are_taken_with_dashes_and_underscores(self, command, subject):
        name = rows_of(
            "list.yaml", robot(mask="subject.png", mask_mode="union", mask_scope=0.4, **{"guidance-scale": 2})
        )
        code, said = command("batch", name, "-o", "out", "--json")
        assert code == 0, said.err
        (told,) = json.loads(said.out)["pictures"]
        settings = told["settings"]
        assert (settings["mask_mode"], settings["mask_scope"], settings["guidance_scale"]) == ("union", 0.4, 2)

    @pytest.mark.parametrize("prompts", [["a red robot", "a robot", "a toy robot"], ["a toy robot"]], ids=["in", "out"])
    def test_a_list_whose_rows_have_moved_makes_nothing(self, command, subject, prompts):
        first = rows_of("list.jsonl", *(robot(prompt=prompt) for prompt in ("a robot", "a toy robot")))
        assert command("batch", first, "-o", "out")[0] == 0
        before = {path: path.read_bytes() for path in Path("out").iterdir()}
        code, said = command("batch", rows_of("list.jsonl", *(robot(prompt=prompt) for prompt in prompts)), "-o", "out")
        assert code == 2
        assert "0001-a-robot.png is of no row of the list; rows can only be added at its end" in said.err
        assert {path: path.read_bytes() for path in Path("out").iterdir()} == before

    def test_rows_may_be_added_at_the_end(self, command, subject):
        assert command("batch", rows_of("list.jsonl", robot()), "-o", "out")[0] == 0
        code, said = command(
            "batch", rows_of("list.jsonl", robot(), robot(prompt="a toy robot")), "-o", "out", "--json"
        )
        assert code == 0, said.err
        assert json.loads(said.out)["made"] == 1

    @pytest.mark.parametrize("foreign", [b"somebody's own", None], ids=["no picture", "a picture"])
    def test_a_sheet_of_somebody_elses_stays(self, command, subject, foreign):
        Path("out").mkdir()
        Path("out/contact-sheet.png").write_bytes(subject.read_bytes() if foreign is None else foreign)
        before = Path("out/contact-sheet.png").read_bytes()
        code, said = command("batch", rows_of("list.jsonl", robot()), "-o", "out")
        assert code == 2
        assert "contact-sheet.png is no sheet of this command" in said.err
        assert [path.name for path in Path("out").iterdir()] == ["contact-sheet.png"]
        assert Path("out/contact-sheet.png").read_bytes() == before

    def test_its_own_sheet_says_so_and_is_replaced_but_not_if_it_is_a_subject(self, command, subject):
        assert command("batch", rows_of("list.jsonl", robot()), "-o", "out")[0] == 0
        assert batch.SHEET_KEY in Image.open("out/contact-sheet.png").text
        assert KEY not in Image.open("out/contact-sheet.png").text
        more = robot(prompt="a toy robot")
        assert command("batch", rows_of("list.jsonl", robot(), more), "-o", "out")[0] == 0
        of_sheet = robot(subject="out/contact-sheet.png")
        code, said = command("batch", rows_of("list.jsonl", robot(), more, of_sheet), "-o", "out")
        assert code == 2
        assert "contact-sheet.png is the subject of row 3 itself" in said.err

    def test_a_torn_picture_is_to_be_deleted(self, command, subject):
        assert command("batch", rows_of("list.jsonl", robot()), "-o", "out")[0] == 0
        torn = Path("out/0001-a-robot.png")
        torn.write_bytes(torn.read_bytes()[:100])
        code, said = command("batch", "list.jsonl", "-o", "out")
        assert code == 2
        assert "0001-a-robot.png cannot be read as a picture" in said.err
        assert "delete it, so that it is made again" in said.err
        torn.unlink()
        assert command("batch", "list.jsonl", "-o", "out")[0] == 0


class TestReading:
    def test_lists_of_spreadsheets_are_read(self, tmp_path):
        (tmp_path / "list.csv").write_bytes('\ufeffsubject,word,prompt\r\na.png,toy,"two\nlines"\r\n'.encode())
        assert read_rows(tmp_path / "list.csv") == [{"subject": "a.png", "word": "toy", "prompt": "two\nlines"}]
        (tmp_path / "list.jsonl").write_text(
            '{"subject": "a.png", "word": "toy", "prompt": "one\u2028line"}\n', "utf-8"
        )
        assert read_rows(tmp_path / "list.jsonl") == [{"subject": "a.png", "word": "toy", "prompt": "one\u2028line"}]

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("list.txt", "x", "must be a file of .csv, .jsonl, .yaml"), ("list.csv", "", "one row or more"),
            ("list.jsonl", "{", "cannot be read"), ("list.yaml", "a: [", "cannot be read"),
            ("list.yaml", "3", "one row or more"),
        ],
    )  # fmt: skip
    def test_lists_that_cannot_be_read_are_refused(self, tmp_path, name, text, message):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=message):
            read_rows(tmp_path / name)

    def test_names_of_columns_are_taken_whatever_their_case_and_empty_rows_are_none(self, tmp_path):
        text = ' Subject,WORD , Prompt,Mask_Scope,,\n,,,,,\na.png, robot,"a robot, red",0.2\n\na.png,toy, "a toy, red"\n ,,\n'
        (tmp_path / "list.csv").write_text(text)
        assert read_rows(tmp_path / "list.csv") == [
            {"subject": "a.png", "word": "robot", "prompt": "a robot, red", "mask-scope": "0.2"},
            {"subject": "a.png", "word": "toy", "prompt": "a toy, red"},
        ]

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            (
                "csv",
                "subject,word,prompt\n\na,b,c\na,b,c, d\n",
                "row 2 has 4 cells, but there are 3 columns; .* quotes",
            ),
            ("csv", "subject,name,prompt\na,b,c\n", "it has no word, but only 'subject', 'name', 'prompt'$"),
            ("csv", "subject;word;prompt\na;b;c, d\n", "no word and no prompt, .* separate the columns by commas"),
            ("csv", "subject\tword\tprompt\na\tb\tc\n", "separate the columns by commas"),
            ("csv", "subject,word,prompt,seed,Seed\na,b,c,1,2\n", "the first line says seed twice"),
            ("csv", "subject,word,prompt,mask-scope,mask_scope\na,b,c,1,2\n", "says mask-scope twice"),
            ("csv", "subject,word,prompt\n,,\n", "one row or more"),
            ("jsonl", '{"seed": 1, "seed": 2}', "line 1 says seed twice"),
            ("jsonl", '\n{"mask_scope": 1, "mask-scope": 2}', "line 2 says mask-scope twice"),
            ("jsonl", '{"subject": "a"}\n\n{x}\n', "line 3 is no JSON: .*, at its column 2$"),
            ("jsonl", '{"subject": "a", "word": "b"}', "it has no prompt, but only 'subject', 'word'$"),
            ("yaml", "- {mask_scope: 1, mask-scope: 2}", "row 1 says mask-scope twice"),
        ],
    )
    def test_what_is_wrong_with_a_list_is_said_where_it_is(self, tmp_path, name, text, message):
        (tmp_path / f"list.{name}").write_text(text)
        with pytest.raises(InputError, match=message):
            read_rows(tmp_path / f"list.{name}")

    @pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
    def test_a_list_that_is_not_utf_8_is_to_be_saved_so(self, tmp_path, encoding):
        (tmp_path / "list.csv").write_bytes("subject,word,prompt\na,b,caf\xe9".encode(encoding))
        with pytest.raises(InputError, match=r"list\.csv is not UTF-8; save it as UTF-8"):
            read_rows(tmp_path / "list.csv")

    def test_the_error_of_a_library_is_one_readable_line(self, command):
        Path("list.yaml").write_text("a: [\n  b: c")
        code, said = command("batch", "list.yaml", "-o", "out")
        assert code == 2
        assert said.err.count("\n") == 1
        assert "\\n" not in said.err
