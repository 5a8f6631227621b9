"""What a run says of itself, and when it gives advice."""

from __future__ import annotations

import pytest
from PIL import Image

from realcustom.portrait import examine
from realcustom.prompts import TargetWord
from realcustom.report import Report, SubjectReport

WORD = TargetWord("robot", 2, (2,), ("robot",))


def report(coverage=0.25, strength=0.3, portraits=(), guidance=(4.0, 4.0)):
    shares = [[coverage, 0.25], [coverage, 0.25]]
    strengths = [[strength, 0.3], [strength, None]]
    return Report([SubjectReport([WORD, WORD], shares, strengths, portraits)], {"guidance_scale": guidance})


def test_a_run_without_fault_gets_no_advice():
    assert report().advice == []
    assert report(strength=None).advice == []  # a twin


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"coverage": 0.01}, "the mask covers 1% of the picture; raise mask_scope or give a larger mask"),
        ({"coverage": 0.95}, "the mask covers 95% of the picture; lower mask_scope or give a smaller mask"),
        ({"strength": 0.001}, "the subject acted only 0.001 times as strongly as the text; raise subject_scale"),
        ({"guidance": (20.0, 4.0)}, "guidance_scale 20 is more than 3 times the model's own 4"),
        ({"portraits": (examine(Image.new("RGB", (64, 64)), 32),)}, "the subject's picture: nothing stands out"),
    ],
)  # fmt: skip
def test_each_fault_is_named_with_its_figure(changes, advice):
    (given,) = report(**changes).advice
    assert given.startswith(advice)
    assert report(**changes).lines()[-1] == f"advice: {given}"


def test_a_scale_that_its_guidance_does_not_use_is_named_if_it_was_given():
    def advice(given):
        return Report((), {"subject_guidance_scale": (given, 4.0)}, ("subject_guidance_scale",)).advice

    assert advice(4.0) == []
    (said,) = advice(20.0)
    assert said.startswith("subject_guidance_scale 20 had no weight, because guidance was 'direct'; take 'cascade'")


def test_the_lines_say_what_was_found_where_and_how_strongly():
    lines = report().lines()
    assert lines[0] == "'robot' is the word, tokens robot"
    assert lines[1] == "its mask covers 25% of the picture in every step"
    assert lines[2] == "in it the subject acted 0.30 times as strongly as the text"
    assert report(coverage=0.75).lines()[1] == "its mask covers 50% of the picture in every step"
    assert SubjectReport([WORD], [[0.5], [0.25]], [[None], [None]]).lines()[1:] == [
        "its mask covers, step by step, 50%, 25% of the picture",
        "in it the subject acted not at all: its scale or mask is 0, or no step lies between its start and end",
    ]


def test_where_the_subject_acted_is_told_without_the_twin_in_which_it_did_not():
    with_twin = SubjectReport([WORD, WORD], [[0.5, 0.1], [0.3, 0.2]], [[0.7, None], [0.7, None]])
    assert with_twin.lines()[1] == "its mask covers, step by step, 50%, 30% of the picture"
