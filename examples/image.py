"""An image service: a photograph in, a better one out, tile by tile, with progress and cancel.

router-core call image/process --file image=@examples/photo.jpg operation=upscale --wait --output cup.png
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import PurePath
from typing import Annotated

from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import AfterValidator, Field

from examples.pixels import Operation, process, tiles
from router_core import File, JobContext, Router
from router_core.errors import ValidationFailed

__all__ = ["MAX_PIXELS", "Photo", "router"]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow reads more, some by starting other programs; a service reads what its callers need."""
MAX_PIXELS = 25_000_000
"""A file of a few kilobytes can hold a picture of gigabytes: its size is checked before it is decoded."""
TILE = 128

router = Router()


def readable(file: File) -> File:
    """Look at the header of a picture, so that a wrong one is refused before it becomes a job."""
    try:
        with _opened(file) as picture:
            width, height = picture.size
    except ValidationFailed as error:
        # a validator of pydantic speaks in ValueErrors; the binding adds where the value stood
        raise ValueError(error.detail) from None
    if width * height > MAX_PIXELS:
        raise ValueError(f"the picture has {width} x {height} pixels; {MAX_PIXELS:,} are allowed")
    return file


Photo = Annotated[File, AfterValidator(readable)]


@router.route("/process", queue_size=50, concurrency=2, timeout=600)
def improve(
    job: JobContext,
    image: Photo,
    operation: Operation = Operation.ENHANCE,
    strength: Annotated[float, Field(ge=0, le=1)] = 0.5,
    scale: Annotated[int, Field(ge=2, le=4)] = 3,
) -> File:
    """Enhance, smooth, stylise or upscale a photograph; the answer is a PNG.

    ``scale`` counts for ``upscale`` only.
    """
    job.progress.message = "reading the picture"
    picture, alpha = _decode(image)
    factor = scale if operation is Operation.UPSCALE else 1
    size = (picture.width * factor, picture.height * factor)
    if size[0] * size[1] > 4 * MAX_PIXELS:
        raise _wrong(
            "scale", f"{size[0]} x {size[1]} pixels would be too many; {4 * MAX_PIXELS:,} are allowed"
        )
    result = Image.new("RGB", size)
    todo = list(tiles(picture.size, TILE))
    for number, tile in enumerate(todo, start=1):
        job.check()  # raises when somebody has cancelled the job
        done = process(picture, tile, operation, strength, factor)
        result.paste(done, (tile.box[0] * factor, tile.box[1] * factor))
        job.progress.update(0.95 * number / len(todo), f"tile {number} of {len(todo)}")
    if alpha is not None:
        result.putalpha(alpha.resize(size, Image.Resampling.LANCZOS))
    png = _encode(result, f"{PurePath(image.filename).stem or 'picture'}-{operation.value}.png")
    job.progress.message = f"{size[0]} x {size[1]} pixels"
    return png


def _decode(file: File) -> tuple[Image.Image, Image.Image | None]:
    """Return the picture upright as RGB, and its transparency if it has any."""
    with _opened(file) as opened:
        upright = ImageOps.exif_transpose(opened)
        transparent = upright.has_transparency_data
        if upright.mode.startswith("I") or upright.mode == "F":
            upright = _eight_bits(upright)
        if not transparent:
            return upright.convert("RGB"), None
        rgba = upright.convert("RGBA")
        return rgba.convert("RGB"), rgba.getchannel("A")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Bring 16-bit, 32-bit and float grey values to 0..255; plain conversion would cut them off."""
    grey = picture.convert("F")
    low, high = grey.getextrema()
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)):
        raise _wrong("image", "this picture has no single grey channel")
    if picture.mode.startswith("I;16"):
        low, high = 0.0, 65_535.0
    span = max(high - low, 1e-9)
    return grey.point(lambda value: value * (255 / span) - 255 * low / span).convert("L")


def _encode(picture: Image.Image, filename: str) -> File:
    out = BytesIO()
    picture.save(out, "PNG")
    return File.from_bytes(out.getvalue(), filename=filename, content_type="image/png")


@contextmanager
def _opened(file: File) -> Iterator[Image.Image]:
    """Open a picture; whatever Pillow has against it is the caller's to mend, not a fault of this service."""
    try:
        with Image.open(file.open(), formats=FORMATS) as picture:
            yield picture
    except ValidationFailed:
        raise
    except UnidentifiedImageError:
        raise _wrong("image", f"not a picture that can be read; use one of {', '.join(FORMATS)}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _wrong("image", f"too many pixels; {MAX_PIXELS:,} are allowed") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise _wrong("image", f"the picture is damaged: {error}") from None


def _wrong(name: str, message: str) -> ValidationFailed:
    return ValidationFailed(
        message, errors=[{"loc": ["body", name], "msg": message, "type": "picture_unusable"}]
    )
