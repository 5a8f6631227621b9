from __future__ import annotations

import json

import pytest
from huggingface_hub import constants

from realcustom.errors import InputError
from realcustom.finding import Place, cached_places, describe, embedded_folder, locate

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "hub").mkdir()
    return tmp_path / "hub"


def add(cache, name, index, commit=COMMIT, ref="main"):
    """Put a model into the cache as the hub's library lays it out."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    for folder in (snapshot, repository / "refs", repository / "blobs"):
        folder.mkdir(parents=True, exist_ok=True)
    (snapshot / "model_index.json").write_text(json.dumps(index))
    if ref:
        (repository / "refs" / ref).write_text(commit)
    return snapshot


def test_an_embedded_model_lies_in_the_package():
    assert locate("stickers") == Place("stickers", "embedded", embedded_folder("stickers"))
    assert locate("stickers").is_there
    assert locate("stickers").card == str(embedded_folder("stickers") / "README.md")


def test_a_folder_is_where_it_is_and_needs_no_card(tmp_path):
    place = locate(str(tmp_path))
    assert place == Place(str(tmp_path), "folder", tmp_path)
    assert not place.is_there
    assert place.card is None


def test_a_hub_id_is_looked_up_in_the_cache_only(cache):
    absent = locate("owner/name")
    assert absent == Place("owner/name", "hub", cache / "models--owner--name")
    assert not absent.is_there
    snapshot = add(cache, "owner/name", {})
    place = locate("owner/name")
    assert place == Place("owner/name", "hub", snapshot)
    assert place.is_there
    assert place.card == "https://huggingface.co/owner/name"


@pytest.mark.parametrize("name", ["stickres", "a/b/c", "../models", "owner/", "owner/na me"])
def test_what_can_be_no_model_is_refused(cache, name):
    with pytest.raises(InputError, match="no embedded model and no folder"):
        locate(name)


def test_a_name_near_an_embedded_one_is_asked_back(cache):
    with pytest.raises(InputError, match=r"Did you mean 'stickers'\?"):
        locate("stickres")


def test_only_models_of_this_package_are_listed_each_by_its_main_revision(cache):
    ours = {"_class_name": "RealCustomPipeline"}
    add(cache, "owner/other", {"_class_name": "StableDiffusionPipeline"})
    add(cache, "owner/z", ours)
    main = add(cache, "owner/a", ours)
    add(cache, "owner/a", ours, commit="f" * 40, ref="")
    assert [place.name for place in cached_places()] == ["owner/a", "owner/z"]
    assert cached_places()[0].folder == main


def test_no_cache_is_no_error(cache):
    assert cached_places() == []
    cache.rmdir()
    assert cached_places() == []
    cache.write_text("a file in its place")
    assert cached_places() == []


def test_a_model_says_what_it_is(tmp_path):
    place = Place("it", "folder", tmp_path)
    blank = describe(place)
    assert (blank.takes_subject, blank.pixels, blank.size, blank.description) == (False, None, 0, "")

    contents = {
        "model_index.json": {"adapter": ["realcustom.adapter", "RealCustomAdapter"]},
        "unet/config.json": {"sample_size": 8},
        "vae/config.json": {"block_out_channels": [8, 8, 16]},
    }
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    card = "---\nlicense: mit\n---\n\n# it\n\n![x](y)\n\nMakes **drawings** of\n[dogs](dogs.md). And more.\n\nMore still.\n"
    (tmp_path / "README.md").write_text(card)
    model = describe(place)
    assert (model.takes_subject, model.pixels, model.description) == (True, 32, "Makes drawings of dogs.")
    assert model.size == sum(len(json.dumps(content)) for content in contents.values()) + len(card)


def test_the_size_in_pixels_is_the_pipelines_own(tiny, tmp_path):
    tiny.pipeline().save_pretrained(tmp_path)
    assert describe(locate(str(tmp_path))).pixels == 32
