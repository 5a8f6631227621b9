"""Saved subjects of an adapter that takes features of two scales and of shallow layers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from realcustom import SavedSubject
from realcustom.errors import InputError
from realcustom.provenance import likeness_hash
from realcustom.subject_encoder import SubjectEncoder


@pytest.fixture(scope="module")
def encoder(tiny):
    return SubjectEncoder(tiny.autoencoder(), 32, **tiny.image_encoders())


@pytest.fixture(scope="module")
def adapter(tiny):
    return tiny.plus_plus_adapter(tiny.unet(), shallow=True)


@pytest.fixture(scope="module")
def subject(tiny, encoder, adapter):
    return encoder.remember(tiny.subject(), adapter, "dog")


def with_features(subject, **features):
    return replace(subject, features=subject.features._replace(**features))


def test_its_tokens_are_those_of_its_picture(tiny, encoder, adapter, subject, tmp_path):
    path, picture = tmp_path / "dog.subject.safetensors", tiny.subject()
    subject.save(path)
    loaded = SavedSubject.load(path)
    assert (len(loaded.features.shallow), loaded.features.local.shape) == (1, (1, 64, 48))
    with torch.no_grad():
        known, seen = (
            encoder.reference(adapter, [one], [encoder.examine(one)], torch.device("cpu"), torch.float32)
            for one in (loaded, picture)
        )
    torch.testing.assert_close(known.tokens, seen.tokens)
    assert torch.equal(known.present, seen.present)
    assert likeness_hash(loaded) == likeness_hash(subject)


def test_shallow_layers_keep_their_order(subject, tmp_path):
    layers = tuple(torch.full((1, 16, 48), float(number)) for number in range(11))
    with_features(subject, shallow=layers).save(tmp_path / "dog.subject.safetensors")
    loaded = SavedSubject.load(tmp_path / "dog.subject.safetensors")
    assert [float(layer.mean()) for layer in loaded.features.shallow] == list(range(11))


@pytest.mark.parametrize("name", ["deep", "local", "shallow"])
def test_its_hash_is_of_all_its_features(subject, name):
    own = getattr(subject.features, name)
    other = (own[0] + 1,) if name == "shallow" else own + 1
    assert likeness_hash(with_features(subject, **{name: other})) != likeness_hash(subject)


@pytest.mark.parametrize(
    ("name", "spoilt"),
    [
        ("deep", lambda own: own[0]), ("deep", lambda own: own.repeat(2, 1, 1)), ("local", lambda own: own * torch.nan),
        ("local", lambda own: own.repeat(2, 1, 1)), ("shallow", lambda own: (own[0] / 0,)),
        ("shallow", lambda own: (own[0], own[0].repeat(2, 1, 1))),
    ],
)  # fmt: skip
def test_features_that_are_not_those_of_one_picture_are_refused(subject, tmp_path, name, spoilt):
    path = tmp_path / "dog.subject.safetensors"
    with_features(subject, **{name: spoilt(getattr(subject.features, name))}).save(path)
    with pytest.raises(InputError, match="is no whole saved subject: its features are not those of one picture"):
        SavedSubject.load(path)


@pytest.mark.parametrize("change", [{"side": 0}, {"size": (0, 30)}, {"stored": (40, 0)}])
def test_a_portrait_without_size_is_refused(subject, tmp_path, change):
    path = tmp_path / "dog.subject.safetensors"
    replace(subject, portrait=replace(subject.portrait, **change)).save(path)
    with pytest.raises(InputError, match="its portrait is none that a picture can have"):
        SavedSubject.load(path)
