"""Every kind of file comes out as right pixels or as a reason, and nothing else comes out."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.config import SourceConfig
from pipeline.decode import Quarantine, decode_rgb

LIMIT = SourceConfig().max_pixels


def photo(height: int = 40, width: int = 60) -> np.ndarray:
    """A smooth picture without any symmetry, uint8 [H, W, 3]."""
    y, x = np.mgrid[:height, :width]
    channels = (x * 255 / max(width - 1, 1), y * 255 / max(height - 1, 1), (x + 2 * y) % 256)
    return np.stack(channels, axis=-1).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> np.ndarray:
    pixels = decode_rgb(data, LIMIT)
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    assert pixels.flags.writeable and pixels.flags.c_contiguous
    return pixels


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG assembled by hand, for what PIL cannot write."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + extra + body


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "JPEG2000"])
def test_lossless_formats_are_exact(kind: str) -> None:
    options = {"WEBP": {"lossless": True}, "JPEG2000": {"irreversible": False}}.get(kind, {})
    np.testing.assert_array_equal(decoded(saved(Image.fromarray(photo()), kind, **options)), photo())


def test_jpeg_agrees_with_opencv() -> None:
    data = saved(Image.fromarray(photo()), "JPEG", quality=90)
    oracle = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(decoded(data).astype(int) - oracle).max() <= 2


UPRIGHT_TO_STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}
"""How a camera stores an upright scene under each EXIF orientation, by the EXIF standard."""


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", UPRIGHT_TO_STORED)
def test_exif_rotated_photos_come_out_upright(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    stored = Image.fromarray(np.ascontiguousarray(UPRIGHT_TO_STORED[orientation](photo())))
    result = decoded(saved(stored, kind, exif=exif, **options))
    assert result.shape == photo().shape
    assert np.abs(result.astype(int) - photo()).max() <= (6 if kind == "JPEG" else 0)


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_unknown_orientation_is_left_alone(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decoded(saved(Image.fromarray(photo()), "PNG", exif=exif)), photo())


def test_damaged_exif_does_not_cost_the_pixels() -> None:
    clean = saved(Image.fromarray(photo()), "JPEG")
    block = b"Exif\x00\x00II*\x00" + b"\xff" * 40
    data = clean[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + clean[2:]
    np.testing.assert_array_equal(decoded(data), decoded(clean))


def test_cmyk_jpeg_agrees_with_opencv() -> None:
    """PIL and libjpeg write the Adobe marker, under which CMYK is stored inverted."""
    ink = np.dstack([photo(), np.full((40, 60), 30, np.uint8)])
    data = saved(Image.fromarray(ink, "CMYK"), "JPEG", quality=100)
    assert b"Adobe" in data
    oracle = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(decoded(data).astype(int) - oracle).max() <= 3
    formula = (255 - ink[..., :3].astype(float)) * (255 - 30) / 255
    assert np.abs(decoded(data) - formula).max() <= 4


def test_grey_16_bit_png_is_scaled_not_clipped() -> None:
    samples = np.linspace(0, 65535, 2400).astype(np.uint16).reshape(40, 60)
    result = decoded(saved(Image.fromarray(samples), "PNG"))
    np.testing.assert_array_equal(result, np.repeat((samples >> 8)[..., None], 3, axis=2).astype(np.uint8))
    assert np.abs(result[..., 0] - samples / 257).max() <= 1


@pytest.mark.parametrize("byteorder", ["<u2", ">u2"])
def test_grey_16_bit_tiff_of_either_byte_order(byteorder: str) -> None:
    samples = np.linspace(0, 65535, 2400).astype(np.uint16).reshape(40, 60)
    mode = {"<u2": "I;16", ">u2": "I;16B"}[byteorder]
    image = Image.frombytes(mode, (60, 40), samples.astype(byteorder).tobytes())
    np.testing.assert_array_equal(decoded(saved(image, "TIFF"))[..., 1], samples >> 8)


def test_grey_16_bit_pgm() -> None:
    samples = np.linspace(0, 65535, 2400).astype(np.uint16).reshape(40, 60)
    data = b"P5\n60 40\n65535\n" + samples.astype(">u2").tobytes()
    np.testing.assert_array_equal(decoded(data)[..., 2], samples >> 8)


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (6, 4), (4, 2)])
def test_16_bit_rgb_and_alpha_png(colour: int, channels: int) -> None:
    samples = (np.arange(40 * 60 * channels) * 27 % 65536).astype(">u2").reshape(40, 60, channels)
    rows = b"".join(b"\x00" + row.tobytes() for row in samples)
    high = (samples.astype(int) >> 8).astype(np.uint8)
    expected = high[..., :3] if channels >= 3 else np.repeat(high[..., :1], 3, axis=2)
    np.testing.assert_array_equal(decoded(png(60, 40, depth=16, colour=colour, rows=rows)), expected)


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(16))])
def test_palette_with_transparency(transparency: int | bytes | None) -> None:
    image = Image.fromarray(photo()).quantize(16)
    palette = np.array(image.getpalette()).reshape(-1, 3)
    options = {} if transparency is None else {"transparency": transparency}
    np.testing.assert_array_equal(decoded(saved(image, "PNG", **options)), palette[np.asarray(image)])


def test_transparent_colour_of_rgb_and_grey_png() -> None:
    data = saved(Image.fromarray(photo()), "PNG", transparency=(0, 0, 0))
    np.testing.assert_array_equal(decoded(data), photo())
    grey = photo()[..., 0]
    data = saved(Image.fromarray(grey), "PNG", transparency=7)
    np.testing.assert_array_equal(decoded(data), np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "1", "PA"])
def test_grey_and_alpha_as_pil_converts(mode: str) -> None:
    image = Image.fromarray(photo()).convert("RGBA")
    image.putalpha(Image.fromarray(photo()[..., 2]))
    image = image.convert(mode)
    kind = "TIFF" if mode == "PA" else "PNG"
    np.testing.assert_array_equal(decoded(saved(image, kind)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_one_pixel(kind: str) -> None:
    assert decoded(saved(Image.new("RGB", (1, 1), (200, 10, 30)), kind)).shape == (1, 1, 3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animation_gives_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(decoded(data), np.asarray(frames[0]))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_files_are_quarantined(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    data = saved(Image.fromarray(noise), kind)
    with pytest.raises(Quarantine):
        decode_rgb(data[: int(len(data) * share)], LIMIT)


@pytest.mark.parametrize(
    "data", [b"", b"x", b"<html>404 Not Found</html>" * 20, b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF"]
)
def test_what_is_no_image_is_quarantined_with_a_reason(data: bytes) -> None:
    with pytest.raises(Quarantine, match=r"empty file|not an image|cannot be decoded"):
        decode_rgb(data, LIMIT)


def test_reason_is_the_same_each_time() -> None:
    reasons = set()
    for _ in range(5):
        with pytest.raises(Quarantine) as caught:
            decode_rgb(b"GIF89a" + bytes(30), LIMIT)
        reasons.add(str(caught.value))
    assert len(reasons) == 1 and "0x" not in reasons.pop()


def test_bomb_is_refused_by_its_header() -> None:
    huge = png(30_000, 30_000, depth=8, colour=2, rows=b"")
    with pytest.raises(Quarantine, match="decompression bomb"):
        decode_rgb(huge, LIMIT)
    with pytest.raises(Quarantine, match="40x60 pixels, the limit is 2399"):
        decode_rgb(saved(Image.new("RGB", (40, 60)), "PNG"), 2399)
    assert decode_rgb(saved(Image.new("RGB", (40, 60)), "PNG"), 2400).shape == (60, 40, 3)


def test_between_pils_two_limits_no_warning_escapes() -> None:
    """PIL warns from half its limit on; here the file is simply cut short."""
    with pytest.raises(Quarantine, match="truncated"):
        decode_rgb(png(12_000, 8_000, depth=1, colour=0, rows=b""), LIMIT)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_range_are_quarantined(mode: str) -> None:
    with pytest.raises(Quarantine, match="no defined range"):
        decode_rgb(saved(Image.new(mode, (8, 8)), "TIFF"), LIMIT)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"]), st.data())
def test_damaged_bytes_give_pixels_or_a_reason_and_never_a_warning(kind: str, draw: st.DataObject) -> None:
    data = bytearray(saved(Image.fromarray(photo()), kind))
    for _ in range(draw.draw(st.integers(1, 6))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    end = draw.draw(st.just(len(data)) | st.integers(1, len(data)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            decoded(bytes(data[:end]))
        except Quarantine as reason:
            assert str(reason)


def test_threads_agree_with_one_thread() -> None:
    files = [saved(Image.fromarray(photo(20 + i, 30)), "JPEG") for i in range(8)]
    files.append(saved(Image.fromarray(photo()).quantize(16), "PNG", transparency=bytes(16)))
    expected = [decoded(data) for data in files]
    with ThreadPoolExecutor(8) as pool:
        for i, result in enumerate(pool.map(decoded, files * 20)):
            np.testing.assert_array_equal(result, expected[i % len(files)])
