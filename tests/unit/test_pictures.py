from __future__ import annotations

import io
import pickle
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from realcustom.errors import InputError
from realcustom.pictures import (
    as_seen,
    cells_of,
    mask_over,
    mask_strip,
    read_picture,
    require_free,
    sheet,
    to_pictures,
    write_picture,
)


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
    found = cells_of(whole, (4, 3), gap=1)
    assert [cell.tobytes() for cell in found] == [
        cell.tobytes() for cell in [*cells, Image.new("RGB", (4, 3), "white")]
    ]


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


def lying(picture, kind, **options):
    """The bytes of a file that holds the picture."""
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def split(mode, left, right, size=(8, 6)):
    """A picture of two halves."""
    picture = Image.new(mode, size, left)
    picture.paste(right, (size[0] // 2, 0, *size))
    return picture


def png_header(width, height):
    """A PNG of which nothing is there but the header: whoever tries to decode it says that it is cut short."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n\0\0\0\r" + chunk + struct.pack(">I", zlib.crc32(chunk)) + b"\0\0\0\rIDAT"


def two(kind, **options):
    first, second = Image.new("RGB", (8, 6), "red"), Image.new("RGB", (8, 6), "blue")
    return lying(first, kind, save_all=True, append_images=[second], **options)


PALETTE = Image.new("RGB", (8, 6), "red")
PALETTE.paste("blue", (4, 0, 8, 6))
PALETTE = PALETTE.quantize(2)
RED_PLACE = PALETTE.getpixel((0, 0))
KINDS = {
    "RGBA": (lying(split("RGBA", "red", (0, 0, 255, 0)), "PNG"), "RGBA", (255, 0, 0, 255), (0, 0, 255, 0)),
    "LA": (lying(split("LA", (80, 255), (200, 0)), "PNG"), "RGBA", (80, 80, 80, 255), (200, 200, 200, 0)),
    "palette": (lying(PALETTE, "PNG"), "RGB", (255, 0, 0), (0, 0, 255)),
    "palette, one place transparent": (
        lying(PALETTE, "PNG", transparency=RED_PLACE), "RGBA", (255, 0, 0, 0), (0, 0, 255, 255)
    ),
    "palette, transparent by degrees": (
        lying(PALETTE, "PNG", transparency=bytes([40, 40])), "RGBA", (255, 0, 0, 40), (0, 0, 255, 40)
    ),
    "RGB, one colour transparent": (
        lying(split("RGB", "red", "blue"), "PNG", transparency=(255, 0, 0)), "RGBA", (255, 0, 0, 0), (0, 0, 255, 255)
    ),
    "CMYK": (lying(split("CMYK", (0, 255, 255, 0), (255, 255, 0, 0)), "TIFF"), "RGB", (255, 0, 0), (0, 0, 255)),
    "16 bits of grey": (lying(split("I;16", 257 * 80, 65535), "PNG"), "L", 80, 255),
    "grey": (lying(split("L", 80, 200), "PNG"), "L", 80, 200),
    "1 bit": (lying(split("1", 0, 1), "PNG"), "L", 0, 255),
    "1 pixel": (lying(Image.new("RGB", (1, 1), "red"), "PNG"), "RGB", (255, 0, 0), (255, 0, 0)),
    "wholly transparent": (lying(Image.new("RGBA", (8, 6)), "PNG"), "RGBA", (0, 0, 0, 0), (0, 0, 0, 0)),
}  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture_is_shown_as_grey_rgb_or_rgba(tmp_path, kind):
    content, mode, left, right = KINDS[kind]
    (tmp_path / "a.png").write_bytes(content)
    shown = as_seen(read_picture(tmp_path / "a.png"))
    assert shown.mode == mode
    assert [shown.getpixel((column, 0)) for column in (0, shown.width - 1)] == [left, right]


def test_what_is_premultiplied_is_shown_as_it_was_before():
    picture = Image.new("RGBA", (2, 2), (200, 100, 0, 128))
    assert np.abs(np.subtract(as_seen(picture.convert("RGBa")).getpixel((0, 0)), (200, 100, 0, 128))).max() <= 1


@pytest.mark.parametrize(("kind", "suffix"), [("JPEG", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
def test_a_picture_is_turned_as_its_exif_data_say(tmp_path, kind, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held with its right side down
    (tmp_path / "lying").write_bytes(lying(split("RGB", "red", "blue", (32, 16)), kind, exif=exif, **suffix))
    shown = as_seen(read_picture(tmp_path / "lying"))
    assert shown.size == (16, 32)
    top, bottom = (np.array(shown.getpixel((8, row))) for row in (2, 29))
    assert top.argmax() == 0
    assert bottom.argmax() == 2


@pytest.mark.parametrize("mode", ["I", "F"])
def test_levels_without_a_known_scale_are_refused(tmp_path, mode):
    (tmp_path / "a.tif").write_bytes(lying(Image.new(mode, (8, 6)), "TIFF"))
    with pytest.raises(
        InputError,
        match=rf"a\.tif cannot be used: its levels \(mode {mode}\) have no known scale; save it with 8 bits a channel",
    ):
        as_seen(read_picture(tmp_path / "a.tif"))


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
def test_of_several_pictures_the_first_is_taken_and_that_is_said(tmp_path, caplog, kind, options):
    (tmp_path / "moving").write_bytes(two(kind, **options))
    assert as_seen(read_picture(tmp_path / "moving")).getpixel((0, 0)) == (255, 0, 0)
    assert caplog.messages == [f"{tmp_path / 'moving'} holds more than one picture; its first one is taken"]
    caplog.clear()
    (tmp_path / "still").write_bytes(lying(Image.new("RGB", (8, 6), "red"), kind, **options))
    read_picture(tmp_path / "still")
    assert caplog.messages == []


def test_a_second_picture_may_be_damaged(tmp_path):
    (tmp_path / "moving.gif").write_bytes(two("GIF")[:-8])
    assert as_seen(read_picture(tmp_path / "moving.gif")).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [(20_000, 20_000), (10_000, 10_000), (8_200, 8_200), (2**31 - 1, 2**31 - 1)])
def test_a_picture_of_too_many_pixels_is_refused_by_its_header(tmp_path, size):
    (tmp_path / "huge.png").write_bytes(png_header(*size))
    with pytest.raises(InputError, match=rf"huge\.png has {size[0] * size[1]} pixels; at most {2**26} are read"):
        read_picture(tmp_path / "huge.png")


def test_a_picture_as_large_as_allowed_is_decoded(tmp_path):
    (tmp_path / "large.png").write_bytes(png_header(8_192, 8_192))
    with pytest.raises(InputError, match=r"large\.png cannot be read as a picture: (?!.*pixels)"):
        read_picture(tmp_path / "large.png")


def test_refusing_a_huge_picture_takes_no_memory(tmp_path):
    side = 20_000
    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(1 + side // 8)) for _ in range(side)) + packer.flush()
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b""))
    with (tmp_path / "whole.png").open("wb") as stream:
        stream.write(b"\x89PNG\r\n\x1a\n")
        for name, data in chunks:
            stream.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="400000000 pixels"):
        read_picture(tmp_path / "whole.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes; decoded, it has 400 000


def test_a_huge_picture_inside_of_an_icon_is_refused_too(tmp_path):
    inner = png_header(20_000, 20_000)
    (tmp_path / "a.ico").write_bytes(struct.pack("<HHHBBBBHHII", 0, 1, 1, 0, 0, 0, 0, 1, 32, len(inner), 22) + inner)
    with pytest.raises(InputError, match=r"a\.ico has 400000000 pixels"):
        read_picture(tmp_path / "a.ico")


def test_a_huge_picture_of_the_caller_is_refused_before_it_is_decoded(tmp_path):
    (tmp_path / "large.png").write_bytes(png_header(8_200, 8_200))
    with pytest.raises(InputError, match=r"large\.png has 67240000 pixels"):
        as_seen(Image.open(tmp_path / "large.png"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_picture_that_is_cut_short_is_refused(tmp_path, kind, share):
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    content = lying(Image.fromarray(noise), kind)
    (tmp_path / "short").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=r"short cannot be read as a picture: \w") as refused:
        read_picture(tmp_path / "short")
    assert "\n" not in str(refused.value)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"no picture\n", "it is text"),
        ("Stra\u00dfe \u4e2d".encode()[:-1], "it is text"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "it is drawn in lines .* rasterise it first"),
        (b"\xef\xbb\xbf<SVG/>", "it is drawn in lines"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "it is drawn in lines"),
        (b"%PDF-1.7\n%\xe2\xe3", "it is a document"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "it is of the kind HEIC or AVIF"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "it is of the kind HEIC or AVIF"),
        (b"PK\x03\x04\x14\0\0\0\x08\0", "it is a zip archive"),
        (pickle.dumps({"weights": [1.0]}), "it is a pickle"),
        (struct.pack("<Q", 2) + b"{}", "it is a safetensors file"),
        (b"\x00\x01\x02\x03" * 30, "it is none of the known kinds"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.png", "a.safetensors"])
def test_what_is_no_picture_is_called_what_it_is_whatever_its_name(tmp_path, content, reason, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name} cannot be read as a picture: {reason}"):
        read_picture(tmp_path / name)


@pytest.mark.parametrize("name", ["absent.png", "-", "a.png/below", "", "x" * 300, "a\0b.png"])
def test_a_path_without_a_picture_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (2, 2)).save("a.png")
    with pytest.raises(
        InputError, match=r"there is no picture|cannot be read as a picture: (it is a folder|File name|emb)"
    ):
        read_picture(Path(name))


def test_a_name_is_shown_in_one_line(tmp_path):
    with pytest.raises(InputError, match=r"there is no picture '.*/a\\n\\x1b\[31mb\.png'$"):
        read_picture(tmp_path / "a\n\x1b[31mb.png")


def test_a_picture_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    def forbid(*_args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbid)
    with pytest.raises(InputError, match=r"mine\.png cannot be read as a picture: Permission denied"):
        read_picture(tmp_path / "mine.png")


def test_what_a_name_is_free_for(tmp_path):
    (tmp_path / "old.png").write_bytes(b"mine")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "astray.png").symlink_to(tmp_path / "nowhere")
    require_free(tmp_path / "new.png", overwrite=False)
    require_free(tmp_path / "old.png", overwrite=True)
    for name, message in (
        ("new.jpg", "must end in .png"), ("absent/new.png", "does not exist; make it first"), ("old.png", "exists"),
        ("folder.png", "is a folder"), ("astray.png", "exists"), ("x" * 300 + ".png", "cannot be written"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            require_free(tmp_path / name, overwrite=False)
    with pytest.raises(InputError, match="is a folder"):
        require_free(tmp_path / "folder.png", overwrite=True)
    with pytest.raises(InputError, match="cannot be written: embedded null byte"):
        write_picture(Image.new("RGB", (2, 2)), tmp_path / "a\0.png")
