"""The image service, called as plain functions: every kind of picture, tiles without seams, cancel."""

from __future__ import annotations

import base64
import struct
import zlib
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from examples import image as service
from examples.pixels import Operation, Tile, process, tiles
from router_core import File, JobCancelled, JobContext, JobProgress
from router_core.errors import ValidationFailed

PHOTO = Path(__file__).parents[2] / "examples" / "photo.jpg"


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> File:
    out = BytesIO()
    picture.save(out, kind, **options)
    return File.from_bytes(out.getvalue(), filename=f"some.{kind.lower()}")


def decoded(file: File) -> Image.Image:
    picture = Image.open(file.open())
    picture.load()
    return picture


def ramp(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    picture = Image.linear_gradient("L").resize(size)
    return picture if mode == "L" else picture.convert(mode)


@pytest.mark.parametrize("operation", list(Operation))
def test_tiles_leave_no_seam(operation: Operation) -> None:
    """A picture that is made of tiles is the picture that is made at once, pixel for pixel."""
    with Image.open(PHOTO) as opened:
        picture = opened.convert("RGB").crop((120, 60, 330, 220))
    scale = 2 if operation is Operation.UPSCALE else 1
    whole_box = (0, 0, *picture.size)
    whole = process(picture, Tile(whole_box, whole_box), operation, 0.8, scale)
    put_together = Image.new("RGB", whole.size)
    for tile in tiles(picture.size, 64):
        part = process(picture, tile, operation, 0.8, scale)
        put_together.paste(part, (tile.box[0] * scale, tile.box[1] * scale))
    assert ImageChops.difference(whole, put_together).getbbox() is None
    assert whole.size == (picture.width * scale, picture.height * scale)


@pytest.mark.parametrize("operation", list(Operation))
def test_every_operation_changes_the_photograph(operation: Operation) -> None:
    """The answer is a PNG of the right size that is neither the input nor a uniform area."""
    with Image.open(PHOTO) as opened:
        small = opened.convert("RGB").crop((100, 50, 300, 200))
    result = service.improve(JobContext(), encoded(small, "JPEG", quality=90), operation, 0.7, 2)
    picture = decoded(result)
    factor = 2 if operation is Operation.UPSCALE else 1
    assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (200 * factor, 150 * factor))
    assert result.content_type == "image/png"
    assert result.filename == f"some-{operation.value}.png"
    assert ImageChops.difference(picture, small.resize(picture.size)).getbbox() is not None
    assert len(picture.getcolors(10**6) or range(10**6)) > 100


def test_smoothing_removes_noise_and_keeps_edges() -> None:
    """Non-local means does what it says on a noisy picture whose clean form is known."""
    clean = Image.new("L", (96, 96), 60)
    clean.paste(190, (48, 0, 96, 96))
    noise = Image.effect_noise((96, 96), 24)
    noisy = ImageChops.add(clean, noise, offset=-128)
    result = decoded(service.improve(JobContext(), encoded(noisy.convert("RGB")), Operation.SMOOTH, 1.0, 2))

    def error(picture: Image.Image) -> float:
        difference = ImageChops.difference(picture.convert("L"), clean)
        return sum(value * value * count for value, count in enumerate(difference.histogram())) / (96 * 96)

    assert error(result) < error(noisy) / 4
    row = [result.getpixel((x, 50)) for x in (40, 56)]
    assert [value[0] for value in row if isinstance(value, tuple)] == pytest.approx([60, 190], abs=15)


def test_progress_rises_tile_by_tile() -> None:
    """Each tile is reported, and the numbers never fall."""
    seen: list[tuple[float, str]] = []
    progress = JobProgress(lambda: seen.append(progress.latest()))
    service.improve(JobContext(progress=progress), encoded(ramp(size=(300, 200))), Operation.ENHANCE)
    fractions = [fraction for fraction, _ in seen]
    assert fractions == sorted(fractions)
    assert [text for _, text in seen if text.startswith("tile")] == [f"tile {n} of 6" for n in range(1, 7)]
    assert fractions[-1] == pytest.approx(0.95)


def test_cancel_stops_between_tiles() -> None:
    """A cancelled job does no further tile."""
    progress = JobProgress(lambda: context.mark_cancelled() if progress.progress > 0.2 else None)
    context = JobContext(progress=progress)
    with pytest.raises(JobCancelled):
        service.improve(context, encoded(ramp(size=(600, 400))), Operation.ENHANCE)
    assert progress.progress < 0.3


def test_exif_orientation_is_applied() -> None:
    """A photograph that was taken with the camera turned comes out upright."""
    picture = Image.new("RGB", (60, 20), "white")
    picture.paste((200, 0, 0), (0, 0, 10, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by 90 degrees
    result = decoded(
        service.improve(JobContext(), encoded(picture, "JPEG", exif=exif, quality=95), Operation.ENHANCE, 0.0)
    )
    assert result.size == (20, 60)
    top, bottom = result.getpixel((10, 2)), result.getpixel((10, 57))
    assert isinstance(top, tuple)
    assert isinstance(bottom, tuple)
    assert top[1] < 60 < bottom[1]


def test_transparency_is_kept() -> None:
    """The alpha channel of an RGBA picture comes back, as large as the result."""
    picture = ramp("RGBA")
    picture.putalpha(Image.linear_gradient("L").rotate(90).resize(picture.size))
    result = decoded(service.improve(JobContext(), encoded(picture), Operation.UPSCALE, 0.2, 2))
    assert (result.mode, result.size) == ("RGBA", (80, 60))
    low, high = result.getchannel("A").getextrema()
    assert isinstance(low, int)
    assert isinstance(high, int)
    assert low < 10
    assert high > 240


def test_palette_with_a_transparent_colour() -> None:
    """A GIF's transparent colour becomes an alpha channel."""
    picture = Image.new("P", (20, 20), 0)
    picture.putpalette([255, 0, 0, 0, 255, 0])
    picture.paste(1, (10, 0, 20, 20))
    result = decoded(
        service.improve(JobContext(), encoded(picture, "GIF", transparency=0), Operation.SMOOTH, 0)
    )
    assert result.mode == "RGBA"
    assert result.getchannel("A").getpixel((2, 2)) == 0
    assert result.getpixel((18, 10)) == (0, 255, 0, 255)


def test_sixteen_bits_are_scaled_not_cut() -> None:
    """Half of 65,535 is a middle grey, not white."""
    picture = Image.new("I;16", (20, 20), 32768)
    result = decoded(service.improve(JobContext(), encoded(picture), Operation.SMOOTH, 0))
    assert result.getpixel((5, 5)) == pytest.approx((128, 128, 128), abs=1)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "YCbCr", "I", "F"])
def test_every_colour_mode_is_read(mode: str) -> None:
    """Modes that Pillow gives are all brought to RGB or RGBA."""
    picture = ramp("L").convert(mode)
    kind = {"CMYK": "JPEG", "YCbCr": "JPEG", "I": "TIFF", "F": "TIFF"}.get(mode, "PNG")
    result = decoded(service.improve(JobContext(), encoded(picture, kind), Operation.ENHANCE, 0.1))
    assert result.size == (40, 30)
    assert result.mode == ("RGBA" if mode == "LA" else "RGB")
    dark, light = (result.convert("L").getpixel((20, y)) for y in (1, 28))
    assert isinstance(dark, (int, float))
    assert isinstance(light, (int, float))
    assert light - dark > 100


def test_picture_of_one_pixel() -> None:
    """The smallest picture is one as well."""
    for operation in Operation:
        result = decoded(service.improve(JobContext(), encoded(Image.new("RGB", (1, 1), "red")), operation))
        assert result.size == ((3, 3) if operation is Operation.UPSCALE else (1, 1))


def bomb(width: int, height: int) -> File:
    """A PNG of a few bytes that claims to be huge."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + head
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    rest = struct.pack(">I", 10) + b"IDAT" + bytes(14)
    return File.from_bytes(data + rest, filename="bomb.png")


@pytest.mark.parametrize("size", [(6_000, 6_000), (10_000, 10_000), (100_000, 100_000)])
def test_decompression_bomb_is_refused_before_it_is_decoded(size: tuple[int, int]) -> None:
    """Below, at and above Pillow's own limits."""
    with pytest.raises(ValueError, match="pixels"):
        service.readable(bomb(*size))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a picture",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"\xff\xd8\xff\xe0",
        b"II*\x00\xff\xff\xff\xff",
        base64.b64encode(b"once too often"),
    ],
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_header_is_a_clear_answer(data: bytes) -> None:
    """What is no picture is refused with words for the caller."""
    with pytest.raises(ValueError, match="picture"):
        service.readable(File.from_bytes(data))
    with pytest.raises(ValidationFailed, match="picture"):
        service.improve(JobContext(), File.from_bytes(data))


def test_truncated_picture_is_a_clear_answer() -> None:
    """A picture that ends early passes the look at its header and is refused when it is decoded."""
    cut = File.from_bytes(PHOTO.read_bytes()[:20_000], filename="cut.jpg")
    assert service.readable(cut) is cut
    with pytest.raises(ValidationFailed, match="damaged"):
        service.improve(JobContext(), cut)


def test_result_that_would_be_too_large_is_refused() -> None:
    """Sixteen times 24 million pixels are not begun."""
    large = encoded(Image.new("L", (6_000, 4_000)))
    with pytest.raises(ValidationFailed, match="too many"):
        service.improve(JobContext(), large, Operation.UPSCALE, 0.5, 4)
