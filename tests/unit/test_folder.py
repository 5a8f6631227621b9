from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from realcustom.data.folder import FolderSource
from realcustom.errors import InputError

COLOURS = {"red.png": (255, 0, 0), "green.png": (0, 255, 0), "blue.png": (0, 0, 255)}


@pytest.fixture
def folder(tmp_path):
    for name, colour in COLOURS.items():
        Image.new("RGB", (30, 20), colour).save(tmp_path / name)
    lines = [{"file_name": name, "text": f"a {name[:-4]} thing"} for name in COLOURS]
    lines[0]["reference_file_name"] = "blue.png"
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_every_epoch_shows_each_picture_once_and_in_an_order_of_its_own(folder):
    source = FolderSource(folder, seed=0, side=8)
    epochs = [[source[number].caption for number in range(start, start + 3)] for start in range(0, 60, 3)]
    assert {tuple(sorted(epoch)) for epoch in epochs} == {("a blue thing", "a green thing", "a red thing")}
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_same_number_same_example(folder):
    one, other = (FolderSource(folder, seed=3, side=8)[17] for _ in range(2))
    assert one.caption == other.caption
    np.testing.assert_array_equal(one.picture, other.picture)


def test_the_reference_is_the_picture_itself_unless_another_is_named(folder):
    source = FolderSource(folder, seed=0, side=8)
    shown = {example.caption: example for example in (source[number] for number in range(3))}
    assert shown["a red thing"].picture[0, 0].tolist() == [255, 0, 0]
    assert shown["a red thing"].reference[0, 0].tolist() == [0, 0, 255]
    np.testing.assert_array_equal(shown["a green thing"].reference, shown["a green thing"].picture)
    assert shown["a green thing"].picture.shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("{\n", "line 1, is no JSON object"),
        ('{"file_name": "red.png"}\n', "line 1, lacks text"),
        ('{"file_name": "red.png", "text": "a"}\n[]\n', "line 2, lacks file_name and text"),
    ],
)
def test_a_wrong_index_is_named_with_its_line(folder, content, message):
    (folder / "metadata.jsonl").write_text(content)
    with pytest.raises(InputError, match=message):
        FolderSource(folder, seed=0, side=8)


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no metadata\.jsonl"):
        FolderSource(tmp_path, seed=0, side=8)


def test_references_can_have_a_size_of_their_own(folder):
    example = FolderSource(folder, seed=0, side=8, reference_side=16)[0]
    assert (example.picture.shape, example.reference.shape) == ((8, 8, 3), (16, 16, 3))
    alike = FolderSource(folder, seed=0, side=8)[0]
    assert example.caption == alike.caption
    assert alike.reference.shape == (8, 8, 3)
