"""Whatever bytes a file holds and whatever picture is handed over: it is read, or refused in one line."""

from __future__ import annotations

import io
import json
import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from realcustom.errors import InputError
from realcustom.pictures import as_seen, read_picture
from realcustom.portrait import examine

FORMATS = {
    "PNG": {}, "JPEG": {}, "GIF": {}, "WEBP": {}, "TIFF": {"compression": "tiff_lzw"}, "BMP": {}, "PPM": {}, "ICO": {},
    "TGA": {}, "JPEG2000": {}, "PCX": {}, "ICNS": {}, "DDS": {}, "SGI": {},
}  # fmt: skip
MODES = (
    "1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "PA", "RGBX", "RGBa", "La", "I;16",
    "I;16L", "I;16B",
)  # fmt: skip


def valid_files():
    """A small file of every format, with several pictures, EXIF data and transparency where it can have them."""
    noise = np.random.default_rng(0).integers(0, 255, (12, 9, 3), np.uint8)
    picture, exif = Image.fromarray(noise), Image.Exif()
    exif[0x0112] = 6
    made = [(picture, kind, options) for kind, options in FORMATS.items()]
    made += [(picture, kind, {"exif": exif}) for kind in ("JPEG", "PNG", "WEBP", "TIFF")]
    several = {"save_all": True, "append_images": [picture.rotate(180), picture.rotate(90)]}
    made += [(picture, kind, several) for kind in ("GIF", "PNG", "WEBP", "TIFF", "MPO")]
    made += [
        (picture.quantize(5), "PNG", {"transparency": bytes([0, 90, 255])}),
        (picture, "PNG", {"transparency": (1, 2, 3)}),
    ]
    made += [
        (picture.convert("CMYK"), "JPEG", {}),
        (picture.convert("LA"), "PNG", {}),
        (picture.convert("1"), "TIFF", {}),
    ]
    for one, kind, options in made:
        stream = io.BytesIO()
        one.save(stream, kind, **options)
        yield stream.getvalue()


FILES = list(valid_files())
BEGINNINGS = sorted({content[:length] for content in FILES for length in (4, 30)})


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("pictures") / "picture.png"


@st.composite
def damaged_files(draw):
    """A file of a known format, a few bytes of which are others, are missing or are too many."""
    content = bytearray(draw(st.sampled_from(FILES)))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, min(len(content), draw(st.sampled_from([60, 10_000])))))
        kind = draw(st.sampled_from(["change", "change", "drop", "insert"]))
        if kind == "insert":
            content[place:place] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "drop":
            del content[place : place + draw(st.integers(1, 20))]
        else:
            content[place : place + 1] = bytes([draw(st.sampled_from([0, 1, 127, 128, 255]) | st.integers(0, 255))])
    return bytes(content[: draw(st.none() | st.integers(0, len(content)))])


def seen_or_refused(look):
    try:
        return look(), ""
    except InputError as refused:
        return None, str(refused)


def check_that_it_is_read_or_refused(path, content):
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)
        shown, refusal = seen_or_refused(lambda: as_seen(read_picture(path)))
    if shown is None:
        assert refusal
        assert "\n" not in refusal
        return
    assert shown.mode in ("L", "RGB", "RGBA")
    assert min(shown.size) > 0


@given(st.binary(max_size=300))
@example(b"")
@settings(max_examples=80)
def test_any_bytes(path, content):
    check_that_it_is_read_or_refused(path, content)


@given(st.sampled_from(BEGINNINGS), st.binary(max_size=200))
@settings(max_examples=150)
def test_any_bytes_after_a_right_beginning(path, beginning, rest):
    check_that_it_is_read_or_refused(path, beginning + rest)


@given(damaged_files())
@settings(max_examples=300)
def test_a_damaged_file(path, content):
    check_that_it_is_read_or_refused(path, content)


@st.composite
def pictures(draw):
    """A picture of any mode, size and pixels, that may say anything of its transparency and its orientation."""
    mode = draw(st.sampled_from(MODES))
    size = draw(
        st.tuples(st.integers(0, 40), st.integers(0, 40)) | st.sampled_from([(1, 3000), (700, 2), (3, 3), (64, 64)])
    )
    picture = Image.new(mode, size)
    if min(size) > 0 and mode not in ("PA", "LAB", "La"):  # Pillow cannot fill these from bytes
        length = len(picture.tobytes())
        pattern = draw(st.binary(min_size=1, max_size=50))
        picture.frombytes((pattern * (1 + length // len(pattern)))[:length])
    if draw(st.booleans()):
        picture.info["transparency"] = draw(
            st.integers(-1, 300) | st.binary(max_size=300) | st.just((1, 2, 3)) | st.none()
        )
    if draw(st.booleans()):
        picture.getexif()[0x0112] = draw(st.integers(0, 9) | st.text(max_size=3))
    return picture


@given(pictures(), st.sampled_from([8, 32, 128]))
@settings(max_examples=120)
def test_any_picture_is_examined_or_refused(picture, side):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        portrait, refusal = seen_or_refused(lambda: examine(picture, side))
    if portrait is None:
        assert refusal
        assert "\n" not in refusal
        return
    assert 0 <= portrait.padding < 1
    assert 0 <= portrait.transparent <= 1
    assert (portrait.padding == 0) == (portrait.padded == "")
    assert all(sentence and "\n" not in sentence for sentence in portrait.advice)
    assert all(line and "\n" not in line for line in portrait.lines())
    json.dumps(portrait.to_dict(), allow_nan=False)
    if portrait.subject is not None:
        left, top, right, bottom = portrait.subject.box
        assert 0 <= left < right <= 1
        assert 0 <= top < bottom <= 1
        assert 0 < portrait.subject.fill <= (right - left) * (bottom - top) + 1e-9
        assert portrait.subject.objects >= 1
