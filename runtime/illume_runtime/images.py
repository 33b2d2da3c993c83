"""Pictures in and out: whatever a user has becomes an RGB picture, and that becomes arrays.

Sizes are PIL's (width, height) where a picture is meant, [Y, X] where an array is.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from illume_runtime.errors import EngineError, UsageError
from illume_runtime.limits import MAX_IMAGE_BYTES, MAX_PIXELS
from illume_runtime.manifest import Preprocessing

if TYPE_CHECKING:
    from PIL.PngImagePlugin import PngInfo

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # no format whose decoder starts another program
DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, struct.error, zlib.error)
DEEP_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # one channel of 16 bits
RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
PNG_LEVEL = 4  # of deflate: a third of the default level's time, files a twentieth larger
WHITE = (255, 255, 255, 255)
Source = str | Path | bytes | Image.Image | NDArray[np.uint8]


def open_image(source: Source) -> Image.Image:
    """The picture as RGB, upright, on white where it is transparent; the source is left as it is.

    A string or Path is a file, bytes are a file's content, an array is uint8 [Y, X], [Y, X, 3] or [Y, X, 4]. Raises
    UsageError for what is no picture or has more than MAX_PIXELS, which is known before it is decoded.
    """
    if isinstance(source, (str, Path)):
        return image_from_file(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return image_from_bytes(bytes(source))
    if isinstance(source, np.ndarray):
        return image_from_array(source)
    if isinstance(source, Image.Image):
        return _rgb(source, "the picture")
    raise UsageError(
        f"the picture is a {type(source).__name__}, expected a file name, bytes, a PIL image or an array of uint8"
    )


def image_from_file(path: str | Path) -> Image.Image:
    """The picture in a file; see `open_image`."""
    path = Path(path)
    try:
        if path.is_dir():
            raise UsageError(f"{path} is a folder; name a picture file")
        num_bytes = path.stat().st_size
        if num_bytes > MAX_IMAGE_BYTES:
            raise UsageError(f"{path}: {num_bytes} bytes, expected a picture file of at most {MAX_IMAGE_BYTES}")
        with path.open("rb") as file:  # not all have a size that is known: a pipe, /dev/zero
            data = file.read(MAX_IMAGE_BYTES + 1)
        if len(data) > MAX_IMAGE_BYTES:
            raise UsageError(f"{path}: more than {MAX_IMAGE_BYTES} bytes, expected a picture file of at most that")
    except UsageError:
        raise
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; name a picture file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{str(path)!r} cannot be read: {reason}; name a picture file") from error
    return image_from_bytes(data, str(path))


def image_from_bytes(data: bytes, name: str = "the picture") -> Image.Image:
    """The picture in the content of a file; see `open_image`. `name` is what errors call it."""
    if not data:
        raise UsageError(f"{name} is empty (0 bytes); expected a picture file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a size above Pillow's limit, when ours is lower; of odd metadata
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError:
            raise UsageError(f"{name} is no picture that can be read; expected {', '.join(FORMATS)}") from None
        except Image.DecompressionBombError as error:
            raise UsageError(f"{name} is too large: {error}; scale it to at most {MAX_PIXELS} pixels") from None
        except DECODING_ERRORS as error:
            raise UsageError(f"{name} is damaged: {error}; save it again") from error
        with image:
            return _rgb(image, name)


def image_from_array(array: NDArray[np.uint8]) -> Image.Image:
    """The picture in an array; see `open_image`."""
    is_picture = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not is_picture or 0 in array.shape:
        raise UsageError(
            f"the picture is an array of {array.dtype} {list(array.shape)}, "
            "expected uint8 [Y, X], [Y, X, 3] or [Y, X, 4]"
        )
    return _rgb(Image.fromarray(np.ascontiguousarray(array)), "the picture")


def fit(
    image: Image.Image,
    size: tuple[int, int],
    *,
    resample: str,
    pad_color: tuple[int, int, int],
    whole: Callable[[float], int] = round,
) -> Image.Image:
    """The RGB picture scaled into (width, height) with its proportions kept, in the middle of `pad_color`.

    `whole` makes whole pixels of its scaled sides.
    """
    left, top, width, height = _place(image.size, size, whole)
    scaled = image.resize((width, height), RESAMPLING[resample])
    if scaled.size == size:
        return scaled
    canvas = Image.new("RGB", size, pad_color)
    canvas.paste(scaled, (left, top))
    return canvas


def unfit(
    image: Image.Image,
    original_size: tuple[int, int],
    *,
    resample: str = "bicubic",
    whole: Callable[[float], int] = round,
) -> Image.Image:
    """The reverse of `fit`: the part of the picture that is no padding, in the size (width, height) that went in."""
    left, top, width, height = _place(original_size, image.size, whole)
    part = image.crop((left, top, left + width, top + height))
    return part.resize(original_size, RESAMPLING[resample])


def pixels_from_image(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """`pixel_values` [1, 3, Y, X] float32 of an RGB picture: fitted, then (value / 255 - mean) / std."""
    height, width = preprocessing.image_size
    fitted = fit(image, (width, height), resample=preprocessing.resample, pad_color=preprocessing.pad_color)
    return normalized(fitted, preprocessing.mean, preprocessing.std)


def normalized(
    image: Image.Image, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> NDArray[np.float32]:
    """[1, 3, Y, X] float32 of an RGB picture: (value / 255 - mean) / std."""
    shift, scale = np.array(mean, np.float32), np.array(std, np.float32)
    values: NDArray[np.float32] = (np.asarray(image, np.float32) / np.float32(255) - shift) / scale
    return np.ascontiguousarray(values.transpose(2, 0, 1))[None]


def image_from_pixels(pixels: NDArray[np.float32]) -> Image.Image:
    """The RGB picture of [3, Y, X] in [-1, 1]; values beyond are clipped. Raises EngineError if one is not finite."""
    if pixels.ndim != 3 or pixels.shape[0] != 3:
        raise ValueError(f"pixels have the shape {list(pixels.shape)}, expected [3, Y, X]")
    if not np.isfinite(pixels).all():
        raise EngineError("the picture has pixels that are not finite; the stages of this bundle do not work here")
    values = np.rint((np.clip(pixels, -1, 1) + 1) * 127.5).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(values.transpose(1, 2, 0)))


def write_png(image: Image.Image, file: IO[bytes], *, text: PngInfo | None = None) -> None:
    """The picture as PNG into an open file, losslessly, with `text` chunks."""
    image.save(file, format="PNG", pnginfo=text, compress_level=PNG_LEVEL)


def _place(size: tuple[int, int], into: tuple[int, int], whole: Callable[[float], int]) -> tuple[int, int, int, int]:
    """Left, top, width and height of a picture of `size` that is scaled into another size and centred there."""
    scale = min(into[0] / size[0], into[1] / size[1])
    width, height = (max(1, min(limit, whole(length * scale))) for length, limit in zip(size, into, strict=True))
    return (into[0] - width) // 2, (into[1] - height) // 2, width, height


def _rgb(image: Image.Image, name: str) -> Image.Image:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UsageError(f"{name} has {width}x{height} pixels, expected at most {MAX_PIXELS} in all; scale it down")
    if width * height == 0:
        raise UsageError(f"{name} has {width}x{height} pixels, expected at least one")
    try:
        image.load()
        upright = ImageOps.exif_transpose(image)
        return _on_white(upright, name)
    except UsageError:
        raise
    except DECODING_ERRORS as error:
        raise UsageError(f"{name} is damaged: {error}; save it again") from error


def _on_white(image: Image.Image, name: str) -> Image.Image:
    if image.mode in DEEP_MODES:
        return Image.fromarray(_eight_bits(image)).convert("RGB")
    if image.mode == "F":
        raise UsageError(f"{name} has floating-point pixels (mode F), expected 8 or 16 bits; convert it")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, WHITE), layer).convert("RGB")
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: Image.Image) -> NDArray[np.uint8]:
    """[Y, X] of a picture with one channel of 16 bits."""
    values = np.asarray(image).astype(np.int64)
    return ((np.clip(values, 0, 65535) * 255 + 32767) // 65535).astype(np.uint8)
