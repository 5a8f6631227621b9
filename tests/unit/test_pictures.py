from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from realcustom.errors import InputError
from realcustom.pictures import mask_over, mask_strip, read_picture, sheet, to_pictures, write_picture


def test_to_pictures_spans_black_to_white():
    (picture,) = to_pictures(torch.tensor([-1.0, 0.0, 1.0, 5.0]).reshape(1, 1, 1, 4).expand(1, 3, 1, 4))
    assert np.asarray(picture)[0, :, 0].tolist() == [0, 128, 255, 255]


def test_sheet_lays_cells_row_by_row():
    cells = [Image.new("RGB", (4, 3), colour) for colour in ("red", "green", "blue")]
    whole = sheet(cells, columns=2, gap=1)
    assert whole.size == (9, 7)
    assert [whole.getpixel(at) for at in ((0, 0), (5, 0), (0, 4), (5, 4), (4, 0))] == [
        (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255), (255, 255, 255),
    ]  # fmt: skip


def test_mask_over_leaves_the_scope_and_dims_the_rest():
    mask = torch.zeros(2, 2)
    mask[:, 0] = 1
    shown = np.asarray(mask_over(Image.new("RGB", (40, 40), "white"), mask))
    assert shown[20, 0].tolist() == [255, 255, 255]
    assert shown[20, 39].max() < 120


def test_mask_strip_goes_from_the_first_to_the_last_step():
    masks = torch.linspace(0, 1, 25)[:, None, None].expand(25, 4, 6)
    strip = np.asarray(mask_strip(masks, side=8, columns=5))
    assert strip.shape == (8, 5 * (12 + 2) - 2, 3)
    assert [strip[4, 5 + 14 * place, 0] for place in range(5)] == [0, 64, 128, 191, 255]


def test_a_picture_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "new.png"
    write_picture(Image.new("RGB", (2, 2), "red"), target)
    assert read_picture(target).getpixel((0, 0)) == (255, 0, 0)

    def fail(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(KeyboardInterrupt):
        write_picture(Image.new("RGB", (2, 2), "blue"), target)
    assert [path.name for path in tmp_path.iterdir()] == ["new.png"]
    assert read_picture(target).getpixel((0, 0)) == (255, 0, 0)


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    with pytest.raises(InputError, match=r"absent/new\.png cannot be written: No such file or directory"):
        write_picture(Image.new("RGB", (2, 2)), tmp_path / "absent" / "new.png")


def test_a_folder_is_no_picture(tmp_path):
    with pytest.raises(InputError, match="cannot be read as a picture"):
        read_picture(tmp_path)
