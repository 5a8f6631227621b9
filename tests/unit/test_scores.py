from __future__ import annotations

import numpy as np
import pytest

from realcustom.evaluation.scores import (
    best_median_worst,
    bootstrap,
    chance_of_retrieval,
    pareto_front,
    retrieved,
    with_interval,
)


def test_the_closest_drawing_is_retrieved():
    gallery = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    assert retrieved(np.array([0.8, 0.6]), gallery, ["a", "b", "c"]) == "b"
    assert retrieved(np.array([0.0, 1.0]), gallery, ["a", "b", "c"]) == "c"


def test_nothing_is_retrieved_where_nothing_was_found():
    assert retrieved(np.zeros(2), np.eye(2), ["a", "b"]) == ""


def test_two_shadings_of_one_subject_count_twice_by_chance():
    assert chance_of_retrieval(["x/noto", "x/fluent", "x/fluent", "x/twemoji"], "x/fluent") == 0.5


def test_the_bootstrap_of_equal_values_has_no_width_and_leaves_out_what_is_unknown():
    assert bootstrap([0.5, 0.5, float("nan")], ["a", "b", "c"]) == [0.5, 0.5, 0.5]
    assert np.isnan(bootstrap([float("nan")], ["a"])).all()


def test_of_a_single_subject_there_is_no_interval():
    assert bootstrap([0.2, 0.7], ["a", "a"]) == [pytest.approx(0.45)]


def test_the_bootstrap_draws_subjects_and_not_pictures():
    """Two subjects with many pictures each are still two subjects: the interval spans both."""
    values, groups = [0.0] * 50 + [1.0] * 50, ["a"] * 50 + ["b"] * 50
    assert bootstrap(values, groups) == [0.5, 0.0, 1.0]
    mean, low, high = bootstrap(values, [str(number) for number in range(100)])
    assert mean == 0.5
    assert 0.38 < low < 0.45
    assert 0.55 < high < 0.62


def test_what_is_less_alike_than_chance_is_worst_whether_it_obeys_or_not():
    figures = {"good": (0.5, 1.0), "off": (-0.2, 1.0), "far off": (-0.9, 0.0), "deaf": (0.4, 0.0)}
    records = [{"name": name, "likeness": one, "control": other} for name, (one, other) in figures.items()]
    records.append({"name": "half", "likeness": 0.9})
    found = best_median_worst(records, ("likeness", "control"), 1)
    assert {name: [one["name"] for one in group] for name, group in found.items()} == {
        "Best": ["good"], "Median": ["deaf"], "Worst": ["far off"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("count", "groups"),
    [(1, [[0]]), (2, [[0], [1]]), (3, [[0], [1], [2]]), (5, [[0, 1], [2], [3, 4]]), (9, [[0, 1], [3, 4], [7, 8]])],
)
def test_no_picture_of_a_short_list_is_shown_twice(count, groups):
    records = [{"number": number, "likeness": 1 - number / 10} for number in range(count)]
    found = best_median_worst(records, ("likeness",), 2)
    assert sorted([one["number"] for one in group] for group in found.values()) == groups


@pytest.mark.parametrize(
    ("values", "front"),
    [
        ([(1, 1), (0, 2), (2, 0), (1, 0), (0, 1), (1.5, 0.5)], [0, 1, 2, 5]),
        ([(1, 1), (1, 1), (0, 0)], [0, 1]),
        ([(1, 0), (1, 1)], [1]),
        ([(0, 1), (1, 1)], [1]),
        ([], []),
    ],
)
def test_on_the_front_are_those_that_no_other_surpasses(values, front):
    assert pareto_front(values) == front


@pytest.mark.parametrize(
    ("figure", "form", "shown"),
    [([0.5, 0.375, 0.625], "+.3f", "+0.500 (+0.375 to +0.625)"), ([0.126], ".2f", "0.13"), (None, ".2f", "")],
)
def test_a_figure_is_shown_with_its_interval_if_it_has_one(figure, form, shown):
    assert with_interval(figure, form) == shown
