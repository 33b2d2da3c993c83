"""Every picture becomes upright RGB, every file that is none becomes one line."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from illume_runtime.errors import EngineError, UsageError
from illume_runtime.images import (
    fit,
    image_from_bytes,
    image_from_file,
    image_from_pixels,
    open_image,
    pixels_from_image,
    unfit,
    write_png,
)
from illume_runtime.limits import MAX_PIXELS
from illume_runtime.manifest import Preprocessing

RED, WHITE, BLACK = (255, 0, 0), (255, 255, 255), (0, 0, 0)
FITTING = {"resample": "bicubic", "pad_color": WHITE}


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def png_header(width, height):
    """A PNG file that declares a size and holds no pixels of it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def gradient(width=20, height=12):
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x * 12, y * 20, (x + y) * 7], -1).astype(np.uint8))


def palette_with_transparency():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    return encoded(image, transparency=1)


def test_rgb_comes_back_as_it_was(tmp_path):
    image = gradient()
    image.save(tmp_path / "a.png")
    for source in (image, np.asarray(image), encoded(image), tmp_path / "a.png", str(tmp_path / "a.png")):
        opened = open_image(source)
        assert opened.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(opened), np.asarray(image))


def test_the_source_stays_as_it_is():
    image = gradient()
    opened = open_image(image)
    opened.putpixel((0, 0), RED)
    assert image.getpixel((0, 0)) == BLACK


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (Image.new("RGBA", (2, 2), (255, 0, 0, 255)), RED),
        (Image.new("RGBA", (2, 2), (0, 0, 0, 0)), WHITE),
        (Image.new("RGBA", (2, 2), (0, 0, 0, 51)), (204, 204, 204)),
        (Image.new("LA", (2, 2), (0, 0)), WHITE),
        (Image.new("L", (2, 2), 77), (77, 77, 77)),
        (Image.new("1", (2, 2), 1), WHITE),
        (Image.new("I;16", (2, 2), 65535), WHITE),
        (Image.new("I;16", (2, 2), 0x8080), (128, 128, 128)),
        (Image.new("I", (2, 2), 257), (1, 1, 1)),
        (Image.new("CMYK", (2, 2), (0, 255, 255, 0)), RED),
        (Image.new("HSV", (2, 2), (0, 255, 255)), RED),
        (Image.new("P", (2, 2), 0), BLACK),
        (np.full((2, 2), 9, np.uint8), (9, 9, 9)),
        (np.full((2, 2, 4), 0, np.uint8), WHITE),
        (np.full((4, 2, 3), 9, np.uint8)[::2], (9, 9, 9)),
    ],
    ids=lambda value: getattr(value, "mode", None),
)
def test_every_mode_becomes_rgb_on_white(source, expected):
    opened = open_image(source)
    assert (opened.mode, opened.size) == ("RGB", (2, 2))
    assert opened.getpixel((1, 1)) == expected


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "1", "I;16", "P"])
def test_every_mode_is_read_from_png(mode):
    image = gradient().convert("L") if mode == "I;16" else gradient()
    data = encoded(image.convert(mode))
    assert open_image(data).size == image.size


def test_transparent_palette_entries_are_white():
    opened = open_image(palette_with_transparency())
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [RED, WHITE]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_formats(kind):
    assert open_image(encoded(gradient(), kind)).size == (20, 12)


def test_cmyk_jpeg():
    opened = open_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert np.abs(np.asarray(opened, np.int64) - RED).max() < 8  # JPEG rounds


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(orientation):
    upright = gradient()
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,  # stored a quarter turn to the left of what it shows
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }.get(orientation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = upright if undo is None else upright.transpose(undo)
    np.testing.assert_array_equal(np.asarray(open_image(encoded(stored, exif=exif))), np.asarray(upright))


@pytest.mark.parametrize(
    ("width", "height", "message"),
    [
        (30_000, 30_000, r"is too large: .*900000000 pixels.*scale it to at most 67108864 pixels"),
        (8193, 8192, r"has 8193x8192 pixels, expected at most 67108864 in all; scale it down"),
        (10_000, 10_000, r"has 10000x10000 pixels"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_huge_picture_is_refused_from_its_header(width, height, message, monkeypatch):
    assert width * height > MAX_PIXELS

    def decode(self):
        raise AssertionError("it was decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    with pytest.raises(UsageError, match=message):
        open_image(png_header(width, height))


def test_a_picture_of_the_largest_size_is_decoded():
    with pytest.raises(UsageError, match="the picture is damaged"):
        open_image(png_header(8192, 8192))


def test_a_huge_pil_image_and_array_are_refused():
    with pytest.raises(UsageError, match="has 8193x8192 pixels"):
        open_image(Image.new("1", (8193, 8192)))
    with pytest.raises(UsageError, match="has 8193x8192 pixels"):
        open_image(np.broadcast_to(np.uint8(0), (8192, 8193)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"x.png is empty \(0 bytes\); expected a picture file"),
        (b"hello, I am no picture", "x.png is no picture that can be read; expected PNG, JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "x.png is no picture that can be read"),
        (encoded(gradient())[:-40], "x.png is damaged: .*; save it again"),
        (encoded(gradient(64, 64), "JPEG")[:-300], "x.png is damaged: .*; save it again"),
        (encoded(gradient())[:20], "x.png is (damaged|no picture)"),
    ],
    ids=["empty", "text", "postscript", "cut png", "cut jpeg", "cut header"],
)
def test_a_bad_file_is_one_line(tmp_path, content, message):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        image_from_file(tmp_path / "x.png")
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"gone.png: no such file; name a picture file"):
        open_image(tmp_path / "gone.png")
    with pytest.raises(UsageError, match=r"is a folder; name a picture file"):
        open_image(tmp_path)
    with pytest.raises(UsageError, match=r"cannot be read: .*; name a picture file"):
        open_image("a\0b")
    with pytest.raises(UsageError, match=r"cannot be read: File name too long; name a picture file"):
        open_image("a" * 5000)


def test_a_file_that_is_too_long_is_not_read(tmp_path):
    with (tmp_path / "x.png").open("wb") as file:
        file.truncate(256 * 1024 * 1024 + 1)
    with pytest.raises(UsageError, match=r"268435457 bytes, expected a picture file of at most 268435456"):
        open_image(tmp_path / "x.png")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"an array of float32 \[4, 4, 3\], expected uint8"),
        (np.zeros((4, 4, 2), np.uint8), r"an array of uint8 \[4, 4, 2\]"),
        (np.zeros((0, 4), np.uint8), r"an array of uint8 \[0, 4\]"),
        (Image.new("F", (2, 2)), "floating-point pixels"),
        (Image.new("RGB", (0, 2)), "has 0x2 pixels, expected at least one"),
        (None, "is a NoneType, expected a file name, bytes, a PIL image or an array"),
    ],
    ids=["float array", "two channels", "empty array", "float image", "empty image", "none"],
)
def test_what_is_no_picture_is_said(source, message):
    with pytest.raises(UsageError, match=message):
        open_image(source)


@settings(deadline=None, max_examples=150)
@given(choice=st.data())
def test_damaged_files_are_pictures_or_one_line(choice):
    kind = choice.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"]))
    data = bytearray(encoded(gradient(), kind))
    for _ in range(choice.draw(st.integers(1, 4))):
        data[choice.draw(st.integers(0, len(data) - 1))] = choice.draw(st.integers(0, 255))
    try:
        opened = image_from_bytes(bytes(data[: choice.draw(st.integers(1, len(data)))]))
    except UsageError:
        return
    assert opened.mode == "RGB"


@pytest.mark.parametrize(
    ("size", "box"),
    [((32, 32), (0, 0, 32, 32)), ((64, 32), (0, 8, 32, 24)), ((3, 9), (10, 0, 21, 32)), ((1000, 1), (0, 15, 32, 16))],
)
def test_fit_keeps_the_proportions_and_pads(size, box):
    fitted = fit(Image.new("RGB", size, BLACK), (32, 32), **FITTING)
    black = np.all(np.asarray(fitted) == 0, -1)
    rows, columns = np.flatnonzero(black.any(1)), np.flatnonzero(black.any(0))
    assert (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) == box
    assert black.sum() == (box[2] - box[0]) * (box[3] - box[1])
    assert fitted.getpixel((0, 0)) == (BLACK if box[:2] == (0, 0) else WHITE)


def test_fit_of_the_same_size_changes_nothing():
    np.testing.assert_array_equal(np.asarray(fit(gradient(), (20, 12), **FITTING)), np.asarray(gradient()))


@settings(deadline=None, max_examples=50)
@given(width=st.integers(1, 90), height=st.integers(1, 90), into=st.tuples(st.integers(1, 64), st.integers(1, 64)))
def test_unfit_takes_the_padding_off(width, height, into):
    fitted = fit(Image.new("RGB", (width, height), RED), into, **FITTING)
    assert fitted.size == into
    back = unfit(fitted, (width, height))
    assert back.size == (width, height)
    assert (np.asarray(back) == RED).all()


def test_pixel_values_are_normalised_in_channels_first():
    preprocessing = Preprocessing((2, 4), "nearest", "pad", (0, 255, 0), (0.5, 0.25, 0.0), (0.5, 1.0, 2.0))
    pixels = pixels_from_image(Image.new("RGB", (2, 2), (255, 51, 0)), preprocessing)
    assert (pixels.shape, pixels.dtype) == ((1, 3, 2, 4), np.float32)
    assert pixels.flags.c_contiguous
    np.testing.assert_allclose(pixels[0, :, 0, 1], [1.0, -0.05, 0.0], atol=1e-7)  # float32
    np.testing.assert_allclose(pixels[0, :, 1, 0], [-1.0, 0.75, 0.0], atol=1e-7)


def test_pixels_become_the_picture_they_came_from():
    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    pixels = values.transpose(2, 0, 1).astype(np.float32) / np.float32(127.5) - 1
    np.testing.assert_array_equal(np.asarray(image_from_pixels(pixels)), values)
    beyond = np.array([-9, 9, 0], np.float32).reshape(3, 1, 1)
    assert image_from_pixels(beyond).getpixel((0, 0)) == (0, 255, 128)


def test_pixels_that_are_no_picture_are_refused():
    with pytest.raises(EngineError, match="pixels that are not finite"):
        image_from_pixels(np.full((3, 2, 2), np.nan, np.float32))
    with pytest.raises(ValueError, match=r"have the shape \[1, 2, 2\], expected \[3, Y, X\]"):
        image_from_pixels(np.zeros((1, 2, 2), np.float32))


def test_a_written_picture_is_read_back_with_its_text():
    rng = np.random.default_rng(4)
    picture = Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8))
    text = PngInfo()
    text.add_itxt("illume", "{}")
    file = io.BytesIO()
    write_png(picture, file, text=text)
    with Image.open(file) as back:
        assert (back.format, back.text) == ("PNG", {"illume": "{}"})
        assert np.array_equal(np.asarray(back), np.asarray(picture))
