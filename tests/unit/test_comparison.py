"""Evaluations side by side."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from realcustom.apps.cli import main
from realcustom.errors import InputError
from realcustom.evaluation.comparison import differences, drawing, page, read_reports, rows_of, tuning_seconds
from realcustom.evaluation.scatter import LETTER, Point, points_of, scatter


def records(*scores):
    """Records of pictures of two subjects in turn, with their similarities."""
    return [
        {"row": "subject", "number": number, "group": "ab"[number % 2], "similarity": score}
        for number, score in enumerate(scores)
    ]


def report(similarity, control, method="realcustom", **more):
    figures = {"pictures": 4, "similarity": [similarity] * 3, "control": [control] * 3}
    rows = {"subject": figures, "copy": {"pictures": 4, "similarity": [0.9] * 3, "control": [0.1] * 3}}
    told = {"benchmark": "stickers 3", "split": "validation", "bench": "abc", "judges": "def", "model": "m"}
    return {**told, "method": method, "rows": rows, "families": {}, "records": records(0.1, 0.9, 0.1, 0.9), **more}


@pytest.fixture
def folders(tmp_path):
    told = {
        "ours": report(0.5, 0.8),
        "prompt-0.5": report(0.3, 0.6, "image-prompt"),
        "prompt-1": report(0.6, 0.4, "image-prompt", records=records(0.3, 1.0, 0.3, 1.0)),
    }
    for name, one in told.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(one))
    spent = [("dog", 90.0), ("dog", 10.0), ("cat", 20.0)]
    lines = [json.dumps({"subject": subject, "seconds": seconds}) for subject, seconds in spent]
    (tmp_path / "prompt-1" / "tuning.jsonl").write_text("\n".join(lines))
    return [tmp_path / name for name in told]


def test_the_methods_stand_first_and_the_other_rows_once(folders):
    reports = read_reports(folders)
    assert list(rows_of(reports)) == ["ours", "prompt-0.5", "prompt-1", "(copy)"]
    told = page(reports, {"prompt-1": 15.0}, differences(reports))
    assert "<td>15</td>" in told
    assert told.count("<circle") == 3  # the copy, which obeys nothing, is in the table alone
    assert "http" not in told.replace("http://www.w3.org/2000/svg", "")


def test_text_alone_is_shown_if_it_is_that_of_all_models(folders):
    reports = read_reports(folders)
    reports["ours"]["rows"]["twin"] = reports["ours"]["rows"]["subject"]
    assert "(twin)" in rows_of(reports)
    for name, value in (
        ("model", "another"),
        ("dtype", "bfloat16"),
        ("num_inference_steps", 50),
        ("cache_interval", 2),
    ):
        other = {**reports, "ours": {**reports["ours"], name: value}}
        assert "(twin)" not in rows_of(other)


def test_differences_are_taken_picture_by_picture(folders):
    apart = differences(read_reports(folders))
    assert list(apart) == ["prompt-0.5", "prompt-1"]
    assert apart["prompt-0.5"] == {"pictures": 4, "similarity": [0.0, 0.0, 0.0]}
    # .2 for one subject and .1 for the other, however far apart the two are
    assert apart["prompt-1"]["similarity"] == [0.15, 0.1, 0.2]


def test_how_long_a_subject_took_is_counted_once(folders):
    assert tuning_seconds(folders[2]) == 15.0
    assert tuning_seconds(folders[0]) is None


def test_evaluations_whose_names_differ_in_a_number_are_a_curve(folders):
    drawn = drawing(read_reports(folders))
    assert drawn.count("<polyline") == 1
    colours = re.findall(r'<circle [^>]*fill="(#\w+)"', drawn)
    assert len(set(colours)) == 2
    assert sum(colours.count(one) == 2 for one in set(colours)) == 1


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({**report(0.1, 0.1), "bench": "other"}, "other and ours differ in bench"),
        ({"rows": {}}, "is no report on subjects of StickerBench"),
        (None, "holds no report.json"),
        ([], r"report\.json holds no JSON object"),
        ({"rows": {"subject": {}}, "families": {}}, "is no report on subjects of StickerBench"),
        ({"rows": [], "families": {}}, "is no report on subjects of StickerBench"),
        (report(0.1, 0.1, records=None), "does not hold the scores of every picture"),
        (report(0.1, 0.1, records=[{"row": "subject"}]), "does not hold the scores of every picture"),
        ('{"rows": ', r"report\.json cannot be read as JSON"),
    ],
)
def test_what_cannot_be_compared_is_refused(folders, tmp_path, told, message):
    (tmp_path / "other").mkdir()
    if told is not None:
        (tmp_path / "other" / "report.json").write_text(told if isinstance(told, str) else json.dumps(told))
    with pytest.raises(InputError, match=message):
        read_reports([*folders, tmp_path / "other"])


def test_two_folders_of_one_name_are_refused(folders, tmp_path):
    shutil.copytree(folders[0], tmp_path / "again" / "ours")
    with pytest.raises(InputError, match="two of the folders are called ours; rename one"):
        read_reports([*folders, tmp_path / "again" / "ours"])


def test_better_lies_above_and_to_the_right():
    drawn = scatter([Point("worse", [0.1], [0.1], "a"), Point("better", [0.2, 0.1, 0.3], [0.9], "b")], "x", "y")
    (x1, y1), (x2, y2) = ((float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', drawn))
    assert x2 > x1
    assert y2 < y1
    assert drawn.count('stroke-opacity=".3"') == 1  # one interval is known
    assert scatter([], "x", "y") == ""


def test_a_curve_goes_by_its_numbers():
    rows = {name: {"x": [0.1], "y": [0.2]} for name in ("steps 10", "other", "steps 25", "steps 8")}
    assert [point.name for point in points_of(rows, "x", "y")] == ["steps 8", "steps 10", "steps 25", "other"]


@pytest.mark.parametrize(
    ("names", "curves"),
    [
        (["ours", "ours2"], ["ours", "ours2"]),
        (["10", "25"], ["10", "25"]),
        (["a-1", "a-1-2", "a-2"], ["a", "a", "a-1-2"]),
    ],
)
def test_names_with_more_numbers_are_another_curve_and_none_is_without_a_name(names, curves):
    points = points_of({name: {"x": [0.1], "y": [0.2]} for name in names}, "x", "y")
    assert sorted(point.curve for point in points) == curves


def test_a_curve_is_named_once_and_its_points_by_the_numbers_that_differ():
    names = ["mask 0.1, then 0.5", "mask 0.2, then 0.5", "scale 1.0", "scale 0.6", "seed 3"]
    points = points_of({name: {"x": [0.1 * place], "y": [0.2]} for place, name in enumerate(names)}, "x", "y")
    assert {(point.name, point.curve, point.mark) for point in points} == {
        ("mask 0.1, then 0.5", "mask , then 0.5", "0.1"), ("mask 0.2, then 0.5", "mask , then 0.5", "0.2"),
        ("scale 0.6", "scale", "0.6"), ("scale 1.0", "scale", "1.0"), ("seed 3", "seed 3", ""),
    }  # fmt: skip
    drawn = scatter(points, "x", "y")
    assert [drawn.count(f">{told}</text>") for told in ("scale", "seed 3", "0.6", "1.0")] == [1, 1, 1, 1]
    assert drawn.count("<polyline") == 2
    assert ">scale 0.6</title>" in drawn


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ((0.123, 0.567), ["0.20", "0.30", "0.40", "0.50"]),
        ((0.9, 0.96), ["0.90", "0.91", "0.92", "0.93", "0.94", "0.95", "0.96"]),
        ((0.5, 0.5), ["0.50"]),
    ],
)
def test_axes_are_marked_at_round_values(ends, expected):
    drawn = scatter([Point("a", [ends[0]], [0.3], "a"), Point("b", [ends[1]], [0.3], "b")], "x", "y")
    assert re.findall(r'y="354">(\d\.\d+)</text>', drawn) == expected


def test_the_command_prints_a_table_and_writes_what_is_asked_for(folders, tmp_path, capsys):
    output = tmp_path / "all.svg"
    command = ["compare", *map(str, folders), "--output", str(output)]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "minus ours, picture by picture" in told
    assert "+0.150 (+0.100 to +0.200)" in told
    assert output.read_text().startswith("<svg")
    assert main(command) == 2
    assert "overwrite it" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    assert main(["compare", str(folders[0]), "--output", str(Path("all.png"))]) == 2
    assert "must end in .html or .svg" in capsys.readouterr().err
    for torn in ('{"seconds": 10.0}\n{"seco', '{"minutes": 1}\n', "[]\n"):
        (folders[-1] / "tuning.jsonl").write_text(torn)
        assert main(["compare", *map(str, folders)]) == 2
        assert "tuning.jsonl" in capsys.readouterr().err


def test_marks_that_would_cover_another_are_left_out():
    close = [
        Point(name, [0.5], [similarity], "curve", name) for name, similarity in (("1", 0.2), ("2", 0.201), ("3", 0.8))
    ]
    drawn = scatter(close, "x", "y")
    assert [drawn.count(f">{mark}</text>") for mark in "123"] == [1, 0, 1]
    assert [drawn.count(f"<title>{name}</title>") for name in "123"] == [1, 1, 1]


def test_the_drawing_is_wide_enough_for_the_longest_name():
    short, long = (scatter([Point("a", [0.5], [0.5], curve)], "x", "y") for curve in ("a", "a" * 50))
    assert _width(long) - _width(short) == 49 * LETTER


def _width(drawn):
    return int(re.search(r'<svg [^>]*width="(\d+)"', drawn)[1])
