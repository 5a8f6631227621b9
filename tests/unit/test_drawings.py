"""How the drawings of the stickers world are made, from small packages in a folder instead of a registry."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import tarfile

import numpy as np
import pytest

from realcustom.apps.cli import main
from realcustom.data.stickers import drawings
from realcustom.data.stickers.drawings import DrawingStore, IconSet, download, rasterise, svgs
from realcustom.errors import InputError

OF_ABC = "sha512-3a81oZNherrMQXNJriBBMRLm+k6JqX6iCp7u5ktV05ohkpkqJ0/BqDa6PCOj/uu9RU1EI2Q86A4qmslPpUyknw=="
"""The published checksum of the three letters."""


def package(icons: dict, name: str = "package/icons.json") -> bytes:
    archive, text = io.BytesIO(), json.dumps(icons).encode()
    with tarfile.open(fileobj=archive, mode="w:gz") as packed:
        member = tarfile.TarInfo(name)
        member.size = len(text)
        packed.addfile(member, io.BytesIO(text))
    return archive.getvalue()


def serve(registry, name, archive):
    place = registry / "@icons" / name / "-" / f"{name}-1.2.3.tgz"
    place.parent.mkdir(parents=True)
    place.write_bytes(archive)


def box(rgba):
    """Return the first and last row and column in which something is drawn."""
    rows, columns = np.nonzero(rgba[..., 3] > 127)
    return rows.min(), rows.max(), columns.min(), columns.max()


class TestDownload:
    ABC = IconSet("noto", "@icons/noto", "1.2.3", OF_ABC, "MIT", "Someone", "https://example.org")

    def test_a_package_with_the_pinned_checksum_is_taken(self, tmp_path):
        serve(tmp_path, "noto", b"abc")
        assert download(self.ABC, tmp_path.as_uri()) == b"abc"

    def test_one_with_another_checksum_is_not(self, tmp_path):
        serve(tmp_path, "noto", b"abd")
        with pytest.raises(
            InputError, match=rf"noto-1\.2\.3\.tgz has sha512 .*, but {re.escape(OF_ABC[7:])} was pinned"
        ):
            download(self.ABC, tmp_path.as_uri())

    def test_a_registry_without_the_package_is_named(self, tmp_path):
        with pytest.raises(InputError, match=r"could not fetch file:.*/@icons/noto/-/noto-1\.2\.3\.tgz.*--registry"):
            download(self.ABC, tmp_path.as_uri())


class TestIcons:
    @pytest.mark.parametrize(
        ("of_the_set", "of_the_icon", "seen"),
        [
            ({}, {}, "0 0 16 16"),
            ({"width": 32, "height": 24}, {}, "0 0 32 24"),
            ({"width": 32, "height": 24}, {"left": -2, "top": 3, "width": 40}, "-2 3 40 24"),
        ],
    )
    def test_an_icon_is_seen_through_its_own_window_or_else_that_of_its_set(self, of_the_set, of_the_icon, seen):
        (document,) = svgs(package({**of_the_set, "icons": {"dog": {"body": "<g/>", **of_the_icon}}}), ["dog"])
        assert document.endswith(f' viewBox="{seen}"><g/></svg>')

    def test_a_package_of_something_else_is_refused(self):
        with pytest.raises(InputError, match=r"holds no icons\.json"):
            list(svgs(package({"icons": {}}, "package/index.json"), []))

    @pytest.mark.parametrize(
        ("window", "rectangle", "expected"),
        [
            ("0 0 32 32", (2, 4, 20, 5), (48, 79, 0, 127)),  # 20 by 5 becomes 128 by 32
            ("0 0 32 32", (12, 8, 8, 16), (0, 127, 32, 95)),
            ("0 0 40 20", (0, 0, 40, 20), (32, 95, 0, 127)),
            ("-8 -8 16 16", (-8, -8, 16, 16), (0, 127, 0, 127)),
        ],
    )
    def test_a_drawing_fills_the_square_in_its_longer_direction(self, window, rectangle, expected):
        x, y, width, height = rectangle
        drawn = rasterise(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{window}">'
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="#ff8000" fill-opacity="0.6"/></svg>'
        )
        assert (drawn.shape, drawn.dtype) == ((128, 128, 4), np.uint8)
        assert box(drawn) == expected
        np.testing.assert_allclose(drawn[64, 64].astype(int), (255, 128, 0, 153), atol=1)


def test_every_drawing_of_the_vocabulary_is_made_of_the_icon_that_it_names(tmp_path, monkeypatch, capsys):
    def rectangle(width, height, colour):
        return {"body": f'<rect width="{width}" height="{height}" fill="{colour}"/>'}

    archives = {
        "noto": {"cup": rectangle(16, 16, "#0000ff"), "unknown": {"body": ""}, "dog-face": rectangle(16, 8, "#ff0000")},
        "twemoji": {"dog": rectangle(8, 16, "#00ff00")},
    }
    sets = {}
    for name, icons in archives.items():
        archive = package({"icons": icons})
        serve(tmp_path / "registry", name, archive)
        checksum = base64.b64encode(hashlib.sha512(archive).digest()).decode()
        told = {"package": f"@icons/{name}", "version": "1.2.3", "integrity": f"sha512-{checksum}", "license": "MIT"}
        sets[name] = {**told, "author": f"Maker of {name}", "url": "https://example.org"}
    train = {"split": "train"}
    nouns = {
        "dog": {"twemoji": {"icon": "dog", **train}, "noto": {"icon": "dog-face", **train}},
        "cup": {"noto": {"icon": "cup", **train}},
    }
    kinds = {"kind": "thing", "common": True, "held_out": False}
    known = {"sets": sets, "nouns": {noun: {**kinds, "drawings": icons} for noun, icons in nouns.items()}}
    monkeypatch.setattr(drawings, "_vocabulary", lambda: known)
    registry = (tmp_path / "registry").as_uri()
    assert main(["data", "stickers", str(tmp_path / "made"), "--registry", registry]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "noto: 2 drawings (MIT, Maker of noto)", "twemoji: 1 drawings (MIT, Maker of twemoji)",
    ]  # fmt: skip
    store = DrawingStore.load(tmp_path / "made")
    assert [(one.noun, one.style) for one in store.drawings] == [("dog", "twemoji"), ("dog", "noto"), ("cup", "noto")]
    assert store.pixels[:, 64, 64].tolist() == [[0, 255, 0, 255], [255, 0, 0, 255], [0, 0, 255, 255]]
    assert [box(rgba) for rgba in store.pixels] == [(0, 127, 32, 95), (32, 95, 0, 127), (0, 127, 0, 127)]
    assert store.hues.tolist() == pytest.approx([120, 0, 240], abs=2)
