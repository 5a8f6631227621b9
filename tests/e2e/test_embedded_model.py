"""The model that ships with the package: real pictures, offline."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import numpy as np
import pytest
import torch

import realcustom
from realcustom.apps import demo
from realcustom.pictures import read_picture
from realcustom.pipeline import RealCustomPipeline

ROOT = Path(__file__).parents[2]
MODEL = Path(realcustom.__file__).parent / "models" / "stickers"


@pytest.fixture(scope="module")
def pipeline():
    pipeline = RealCustomPipeline.from_pretrained("stickers")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("the embedded model asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def border(picture) -> np.ndarray:
    """Mean colour of the picture's four corners."""
    pixels = np.asarray(picture, float)
    corners = [
        pixels[rows, columns]
        for rows in (slice(0, 12), slice(-12, None))
        for columns in (slice(0, 12), slice(-12, None))
    ]
    return np.concatenate([corner.reshape(-1, 3) for corner in corners]).mean(axis=0)


def test_it_is_small_and_in_safetensors_only():
    files = [path for path in MODEL.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 100e6
    assert {path.suffix or path.name for path in files} <= {".json", ".jsonl", ".safetensors", ".md", "LICENSE"}


def test_its_encoder_has_the_name_by_which_saved_subjects_know_it(pipeline):
    assert pipeline.subject_encoder.name(pipeline.adapter) == "AutoencoderDC 987846095e66-987846095e66"


def test_the_named_background_is_there(pipeline):
    wanted = {"red": (214, 48, 49), "blue": (58, 123, 213), "black": (28, 28, 30), "white": (250, 250, 248)}
    pictures = pipeline(
        [f"an apple on a {colour} background" for colour in wanted],
        generator=[torch.Generator().manual_seed(3) for _ in wanted],
    ).images
    seen = np.stack([border(picture) for picture in pictures])
    distances = np.linalg.norm(seen[:, None] - np.array(list(wanted.values()), float)[None], axis=-1)
    assert distances.argmin(axis=1).tolist() == [0, 1, 2, 3]
    assert distances.min(axis=1).max() < 60


def test_the_subject_changes_its_part_of_the_picture_most(pipeline):
    subject, prompt = read_picture(ROOT / "examples" / "elephant.png"), "an elephant on a green background"
    one, twin = (
        pipeline(prompt, subject, "elephant", subject_scale=scale, generator=torch.Generator().manual_seed(5))
        for scale in (1.0, 0.0)
    )
    change = np.abs(np.asarray(one.images[0], float) - np.asarray(twin.images[0], float)).mean(axis=-1)
    scope = one.masks.final[0].repeat_interleave(8, 0).repeat_interleave(8, 1).numpy() > 0
    assert change[scope].mean() > 1.5 * change[~scope].mean()
    assert min(ratio for step in one.report.subjects[0].visual_to_textual for ratio in step) > 0


def test_the_demo_leaves_its_pictures_where_it_says(tmp_path, capsys):
    demo.main(ROOT / "examples", tmp_path / "demo")
    said = capsys.readouterr().out
    for example in json.loads((ROOT / "examples" / "examples.json").read_text()):
        picture = tmp_path / "demo" / example["subject"]
        assert str(picture) in said
        assert np.asarray(read_picture(picture), float).std() > 10
        assert read_picture(picture.with_stem(f"{picture.stem}-explained")).width == 4 * 128 + 3 * 2
