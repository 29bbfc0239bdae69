"""Crops survive JPEG as an independent decoder says they do, and damaged ones are refused with a reason."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from storage.config import JpegConfig
from storage.jpeg import decode_jpeg, encode_jpeg


def picture(height: int = 96, width: int = 80) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 2, x * 3, (x + y) % 256], -1).astype(np.uint8)


def test_decodes_as_opencv_and_pillow_do():
    data = encode_jpeg(picture(), JpegConfig())
    ours = decode_jpeg(data)
    opencv = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert ours.dtype == np.uint8 and ours.shape == (96, 80, 3)
    assert np.array_equal(ours, np.asarray(Image.open(io.BytesIO(data))))
    assert np.abs(ours.astype(int) - opencv).max() <= 3
    assert np.abs(ours.astype(int) - picture()).mean() < 2


def test_same_pixels_same_bytes_whatever_the_strides():
    flipped = picture()[:, ::-1]
    assert encode_jpeg(flipped, JpegConfig()) == encode_jpeg(flipped.copy(), JpegConfig())


@pytest.mark.parametrize(("subsampling", "factors"), [("4:4:4", 0x11), ("4:2:2", 0x21), ("4:2:0", 0x22)])
def test_subsampling_is_in_the_frame_header(subsampling, factors):
    data = encode_jpeg(picture(), JpegConfig(subsampling=subsampling))
    frame = data.index(b"\xff\xc0")
    assert data[frame + 11] == factors  # sampling factors of the luma component


def test_quality_changes_the_size():
    sizes = [len(encode_jpeg(picture(), JpegConfig(quality=q))) for q in (50, 95, 100)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[2]


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (17, 3)])
def test_odd_sizes(size):
    assert decode_jpeg(encode_jpeg(picture(*size), JpegConfig())).shape == (*size, 3)


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))]
)
def test_encode_refuses_what_is_no_crop(bad):
    with pytest.raises(ValueError, match="uint8"):
        encode_jpeg(bad, JpegConfig())


def test_a_cut_jpeg_is_refused():
    data = encode_jpeg(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), JpegConfig())
    for size in (0, 2, 3, 20, 300, len(data) // 2, len(data) - 600):
        with pytest.raises(ValueError, match="not a readable JPEG"):
            decode_jpeg(data[:size])


def test_other_formats_and_modes_are_refused():
    png, grey = io.BytesIO(), io.BytesIO()
    Image.fromarray(picture()).save(png, "PNG")
    Image.fromarray(picture()[..., 0]).save(grey, "JPEG")
    with pytest.raises(ValueError, match="not a readable JPEG"):
        decode_jpeg(png.getvalue())
    with pytest.raises(ValueError, match="crops are RGB"):
        decode_jpeg(grey.getvalue())


def test_a_header_that_claims_a_huge_image_is_refused_before_decoding():
    data = bytearray(encode_jpeg(picture(), JpegConfig()))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"  # height and width
    with pytest.raises(ValueError, match="65535x65535"):
        decode_jpeg(bytes(data))
