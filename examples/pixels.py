"""The pixel work of the image service: plain Pillow, no model to download.

Each operation looks at most ``REACH`` pixels around the pixel that it computes. A tile that is cut out with
that much border, and trimmed afterwards, is therefore the same as that part of the whole picture: no seams.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from PIL import Image, ImageChops, ImageFilter, ImageMath

__all__ = ["REACH", "Operation", "Tile", "process", "tiles"]

REACH = 40
_SEARCH = 10
_PATCH = 3


class Operation(StrEnum):
    """What can be done to a picture."""

    ENHANCE = "enhance"
    """More local contrast: structure becomes visible in light and dark areas alike."""
    SMOOTH = "smooth"
    """Less noise, edges kept (non-local means)."""
    STYLISE = "stylise"
    """A drawing: flat tones and dark contours."""
    UPSCALE = "upscale"
    """Larger: denoise, Lanczos, then sharpen."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of the picture, and the larger part that has to be read to compute it."""

    box: tuple[int, int, int, int]
    """Left, top, right, bottom."""
    source: tuple[int, int, int, int]
    """``box`` with its border, as far as the picture goes."""


def tiles(size: tuple[int, int], edge: int) -> Iterator[Tile]:
    """Cut a picture into tiles, row by row."""
    width, height = size
    for top in range(0, height, edge):
        for left in range(0, width, edge):
            box = (left, top, min(left + edge, width), min(top + edge, height))
            source = (
                max(0, box[0] - REACH),
                max(0, box[1] - REACH),
                min(width, box[2] + REACH),
                min(height, box[3] + REACH),
            )
            yield Tile(box, source)


def process(image: Image.Image, tile: Tile, operation: Operation, strength: float, scale: int) -> Image.Image:
    """Return one finished tile of an RGB picture, ``scale`` times as large."""
    part = image.crop(tile.source)
    if operation is Operation.ENHANCE:
        done = enhance(part, strength)
    elif operation is Operation.SMOOTH:
        done = smooth(part, strength)
    elif operation is Operation.STYLISE:
        done = stylise(part, strength)
    else:
        done = upscale(part, strength, scale)
    left, top = tile.box[0] - tile.source[0], tile.box[1] - tile.source[1]
    right, bottom = left + tile.box[2] - tile.box[0], top + tile.box[3] - tile.box[1]
    return done.crop((left * scale, top * scale, right * scale, bottom * scale))


def enhance(image: Image.Image, strength: float) -> Image.Image:
    """Raise contrast against the surroundings, then sharpen a little."""
    wide = image.filter(ImageFilter.UnsharpMask(radius=9, percent=round(80 * strength), threshold=0))
    return wide.filter(ImageFilter.UnsharpMask(radius=1.5, percent=round(60 * strength), threshold=2))


def smooth(image: Image.Image, strength: float) -> Image.Image:
    """Average each pixel with those around it whose neighbourhood looks alike (non-local means)."""
    margin = _SEARCH
    padded = _extend(image, margin)
    grey, padded_grey = image.convert("L"), padded.convert("L")
    width, height = image.size
    alike = _alikeness(3 + 17 * strength)
    weights = Image.new("I", image.size)
    sums = [Image.new("I", image.size) for _ in range(3)]
    for dy in range(-_SEARCH, _SEARCH + 1):
        for dx in range(-_SEARCH, _SEARCH + 1):
            box = (margin + dx, margin + dy, margin + dx + width, margin + dy + height)
            squared = ImageChops.difference(grey, padded_grey.crop(box)).point(_SQUARES)
            weight = squared.filter(ImageFilter.BoxBlur(_PATCH)).point(alike)
            weights = ImageMath.lambda_eval(lambda v: v["sum"] + v["w"], sum=weights, w=weight)
            bands = padded.crop(box).split()
            sums = [
                ImageMath.lambda_eval(lambda v: v["sum"] + v["w"] * v["band"], sum=total, w=weight, band=band)
                for total, band in zip(sums, bands, strict=True)
            ]
    means = [
        ImageMath.lambda_eval(lambda v: (v["sum"] + v["n"] / 2) / v["n"], sum=s, n=weights) for s in sums
    ]
    return Image.merge("RGB", [mean.convert("L") for mean in means])


def stylise(image: Image.Image, strength: float) -> Image.Image:
    """Flatten the tones and draw contours where the light changes quickly."""
    flat = image.filter(ImageFilter.MedianFilter(5)).filter(ImageFilter.MedianFilter(5))
    step = 256 / (16 - 10 * strength)
    tones = [min(255, round((value // step + 0.5) * step)) for value in range(256)]
    flat = flat.point(tones * 3)
    soft = image.convert("L").filter(ImageFilter.GaussianBlur(1))
    softer = image.convert("L").filter(ImageFilter.GaussianBlur(2.5))
    contour = ImageChops.subtract(softer, soft).point(
        [max(0, 255 - round(v * 40 * strength)) for v in range(256)]
    )
    return ImageChops.multiply(flat, Image.merge("RGB", [contour] * 3))


def upscale(image: Image.Image, strength: float, scale: int) -> Image.Image:
    """Denoise before enlarging, so that the sharpening after it finds edges rather than grain."""
    clean = Image.blend(image, smooth(image, strength / 2), strength)
    large = clean.resize((image.width * scale, image.height * scale), Image.Resampling.LANCZOS)
    return large.filter(ImageFilter.UnsharpMask(radius=scale, percent=round(120 * strength), threshold=1))


_SQUARES = [min(255, value * value // 8) for value in range(256)]


def _alikeness(spread: float) -> list[int]:
    """Map a mean squared difference (as ``_SQUARES`` scales it) to a weight, which is never 0."""
    return [max(1, round(255 * math.exp(-8 * value / (spread * spread)))) for value in range(256)]


def _extend(image: Image.Image, margin: int) -> Image.Image:
    """Repeat the outermost pixels ``margin`` times on every side."""
    width, height = image.size
    wide = Image.new(image.mode, (width + 2 * margin, height))
    wide.paste(image, (margin, 0))
    wide.paste(image.crop((0, 0, 1, height)).resize((margin, height)), (0, 0))
    wide.paste(image.crop((width - 1, 0, width, height)).resize((margin, height)), (width + margin, 0))
    tall = Image.new(image.mode, (wide.width, height + 2 * margin))
    tall.paste(wide, (0, margin))
    tall.paste(wide.crop((0, 0, wide.width, 1)).resize((wide.width, margin)), (0, 0))
    last = wide.crop((0, height - 1, wide.width, height)).resize((wide.width, margin))
    tall.paste(last, (0, height + margin))
    return tall
