"""Pictures that must be refused in one line, and odd ones that must just work."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from trimkit.errors import InputError
from trimkit.images import load_image


def _png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def _photo(width: int = 64, height: int = 48) -> Image.Image:
    across = np.linspace(0, 255, width, dtype=np.uint8)[None, :].repeat(height, axis=0)
    down = np.linspace(0, 255, height, dtype=np.uint8)[:, None].repeat(width, axis=1)
    return Image.fromarray(np.stack([across, down, across // 2 + down // 2], axis=-1))


def _bad(kind: str, folder: Path) -> Path:
    path = folder / kind
    jpeg, png = folder / "whole.jpg", folder / "whole.png"
    _photo(400, 300).save(jpeg)
    _photo().save(png)
    if kind == "directory":
        path.mkdir()
    elif kind != "missing":
        contents = {
            "empty.png": b"",
            "text.jpg": b"this is not a picture\n" * 50,
            "cut.jpg": jpeg.read_bytes()[: len(jpeg.read_bytes()) // 2],
            "header_only.jpg": jpeg.read_bytes()[:20],
            "cut.png": png.read_bytes()[:60],
            "magic_only.gif": b"GIF89a",
            "bomb.png": _png_header(20_000, 20_000),
            "big.png": _png_header(12_000, 9_000),
            "strip.png": _png_header(60_000, 3),
            "figure.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n",
            "damaged.png": png.read_bytes()[:45] + b"\xff" * 60 + png.read_bytes()[105:],
        }
        path.write_bytes(contents[kind])
    return path


BAD = {
    "missing": "does not exist",
    "directory": "is a directory",
    "empty.png": "is empty",
    "text.jpg": "not an image",
    "cut.jpg": "damaged or cut short",
    "header_only.jpg": "",
    "cut.png": "damaged or cut short",
    "magic_only.gif": "",
    "bomb.png": "downscale it first",
    "big.png": "downscale it first",
    "strip.png": "crop it first",
    "figure.eps": "not an image",
    "damaged.png": "damaged",
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_pictures_are_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    path = _bad(kind, tmp_path)
    with pytest.raises(InputError) as caught:
        load_image(path)
    message = str(caught.value)
    assert BAD[kind] in message
    assert str(path) in message
    assert "\n" not in message
    assert ": " in message, "the remedy follows the cause"


@pytest.mark.parametrize("path", ["", "a\0b", "x" * 5000])
def test_impossible_paths_are_refused(path: str) -> None:
    with pytest.raises(InputError) as caught:
        load_image(path)
    assert "\n" not in str(caught.value)


def test_limit_is_the_callers(tmp_path: Path) -> None:
    _photo().save(tmp_path / "a.png")
    with pytest.raises(InputError, match="64x48"):
        load_image(tmp_path / "a.png", max_pixels=1000)
    with pytest.raises(InputError, match="downscale"):
        load_image(_photo(), max_pixels=1000)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "HSV", "PA", "I", "F", "I;16"])
def test_every_pixel_format_becomes_rgb(mode: str) -> None:
    source = Image.new("I;16", (8, 6), 30_000) if mode == "I;16" else _photo(8, 6).convert("RGB")
    if mode == "PA":
        source = source.convert("P").convert("PA")
    elif mode == "LA":
        source = source.convert("L").convert("LA")
    elif mode != "I;16":
        source = source.convert("L").convert(mode) if mode in ("I", "F") else source.convert(mode)
    image = load_image(source)
    assert (image.mode, image.size) == ("RGB", (8, 6))
    assert source.mode == mode, "the picture handed in stays as it is"


def test_cmyk_jpeg_keeps_its_colours(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), (200, 40, 40)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert np.allclose(np.asarray(load_image(tmp_path / "a.jpg"))[8, 8], (200, 40, 40), atol=6)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None, :].repeat(4, axis=0)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    Image.fromarray(ramp).save(tmp_path / "a.tif")
    for name in ("a.png", "a.tif"):
        values = np.asarray(load_image(tmp_path / name))[0, :, 0].astype(int)
        assert (values == np.arange(256)).all()


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    half.paste((255, 0, 0, 255), (0, 0, 2, 4))
    half.save(tmp_path / "rgba.png")
    half.quantize(8).save(tmp_path / "palette.png")
    Image.new("L", (4, 4), 7).save(tmp_path / "grey.png", transparency=7)
    for name in ("rgba.png", "palette.png"):
        image = load_image(tmp_path / name)
        assert image.getpixel((3, 0)) == (255, 255, 255)
        assert image.getpixel((0, 0)) == (255, 0, 0)
    assert load_image(tmp_path / "grey.png").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, tmp_path: Path) -> None:
    upright = Image.new("RGB", (32, 16), "black")
    upright.paste((255, 255, 255), (0, 0, 8, 8))
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(turns[orientation]) if orientation in turns else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(np.asarray(load_image(tmp_path / "a.png")), np.asarray(upright))


def test_broken_exif_says_nothing(tmp_path: Path) -> None:
    _photo().save(tmp_path / "a.jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7f")
    assert load_image(tmp_path / "a.jpg").size == (64, 48)


def test_one_pixel_and_first_frame(tmp_path: Path) -> None:
    assert load_image(Image.new("RGB", (1, 1), (1, 2, 3))).getpixel((0, 0)) == (1, 2, 3)
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert load_image(tmp_path / "a.gif").getpixel((0, 0)) == (255, 0, 0)


def test_pillows_global_state_is_left_alone(tmp_path: Path) -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for kind in ("bomb.png", "big.png", "cut.jpg"):
            folder = tmp_path / f"in-{kind}"
            folder.mkdir()
            with pytest.raises(InputError):
                load_image(_bad(kind, folder))
    assert not caught
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("name", ["a.tif", "memory"])
def test_values_that_are_no_numbers_are_refused(value: float, name: str, tmp_path: Path) -> None:
    values = np.linspace(0, 100, 300, dtype=np.float32)[None, :].repeat(300, axis=0)
    values[290, 7] = value
    picture = Image.fromarray(values)
    picture.save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"infinite or not numbers: save it with finite values") as caught:
        load_image(tmp_path / name if name == "a.tif" else picture)
    assert "\n" not in str(caught.value)


MODES = ["L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "I", "F", "1"]


@pytest.mark.parametrize("mode", MODES)
def test_large_pictures_are_read_reduced_and_in_bands(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With small limits: the bands give what the whole gives, halved."""
    photo = _photo(101, 77)
    if mode == "I;16":
        source = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    elif mode in ("I", "F"):
        source = photo.convert("L").convert(mode)
    else:
        source = photo.convert("RGBA").convert(mode) if mode == "LA" else photo.convert(mode)
    whole = load_image(source)
    monkeypatch.setattr("trimkit.images._BAND", 8)
    monkeypatch.setattr("trimkit.images._ENOUGH_PIXELS", 101 * 77 - 1)
    assert np.array_equal(np.asarray(load_image(source)), np.asarray(whole)), "bands at full size"
    monkeypatch.setattr("trimkit.images._ENOUGH_PIXELS", 101 * 77 // 4)
    halved = load_image(source)
    assert halved.size == (51, 39)
    assert np.abs(np.asarray(halved).astype(int) - np.asarray(whole.reduce(2)).astype(int)).max() <= 1
    assert source.size == (101, 77)


def test_a_large_jpeg_is_decoded_at_half_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimkit.images._ENOUGH_PIXELS", 400 * 300 // 4)
    exif = Image.Exif()
    exif[0x0112] = 6
    _photo(400, 300).save(tmp_path / "a.jpg", exif=exif, quality=95)
    image = load_image(tmp_path / "a.jpg")
    assert image.size == (150, 200)
    upright = _photo(400, 300).transpose(Image.Transpose.ROTATE_270).reduce(2)
    assert np.abs(np.asarray(image).astype(int) - np.asarray(upright).astype(int)).max() <= 12
    with Image.open(tmp_path / "a.jpg") as mine:
        assert load_image(mine).size == (150, 200)
        assert mine.size == (400, 300), "the picture handed in stays as it is"


def test_a_picture_at_the_limit_takes_megabytes(tmp_path: Path) -> None:
    """16 bits, 100 million pixels: 2.6 GB when it is converted as a whole."""
    path = tmp_path / "large.tif"
    ramp = (np.arange(10_000) * 65535 // 9_999).astype(np.uint16)
    Image.fromarray(np.broadcast_to(ramp, (10_000, 10_000))).save(path)
    code = (
        "import resource, sys; from trimkit.images import load_image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "image = load_image(sys.argv[1])\n"
        "print(*image.size, *image.getpixel((0, 0)), *image.getpixel((4999, 9)),\n"
        "      (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    *seen, mebibytes = map(int, done.stdout.split())
    assert seen == [5000, 5000, 0, 0, 0, 255, 255, 255]
    assert mebibytes < 700


def test_files_that_never_end(tmp_path: Path) -> None:
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.png")
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(2**41)
    for name in ("zero.png", "pipe.png", "sparse.png"):
        with pytest.raises(InputError):
            load_image(tmp_path / name)
