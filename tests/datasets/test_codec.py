"""Frames in and out of bytes, against OpenCV's own codecs."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from tactile_align.datasets import codec
from tests.datasets.making import frames


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("coder", ["jpeg", "png"])
def test_what_opencv_decodes_from_our_bytes_has_the_stated_order(order: codec.Channels, coder: str) -> None:
    frame = frames(1)[0]
    data = codec.encode_png(frame, order) if coder == "png" else codec.encode_jpeg(frame, 95, order)
    opencv = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)  # BGR of a well-formed image
    expected = frame[..., ::-1] if order == "rgb" else frame
    assert np.abs(opencv.astype(int) - expected).mean() < (0.01 if coder == "png" else 2)
    assert np.abs(codec.decode(data, order).astype(int) - frame).mean() < (0.01 if coder == "png" else 2)
    assert codec.width_height(data) == (64, 48)


def test_full_chroma_keeps_the_colour_of_a_touch_sharper() -> None:
    stripes = np.zeros((48, 64, 3), np.uint8)
    stripes[:, ::2] = (200, 40, 40)
    stripes[:, 1::2] = (40, 40, 200)
    error = {full: np.abs(codec.decode(codec.encode_jpeg(stripes, 95, full_chroma=full)).astype(int) - stripes).mean()
             for full in (True, False)}  # fmt: skip
    assert error[True] < error[False] / 5


def test_the_quality_a_jpeg_was_written_with_is_read_from_its_tables() -> None:
    frame = frames(1)[0]
    for quality in range(1, 101):
        done, opencv = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])
        assert done and codec.jpeg_quality(opencv.ravel()) == quality
        assert codec.jpeg_quality(codec.encode_jpeg(frame, quality, full_chroma=True)) == quality
    assert codec.jpeg_quality(codec.encode_png(frame)) is None


def test_a_jpeg_written_twice_tells_its_last_quality() -> None:
    first = codec.encode_jpeg(frames(1)[0], 95)
    assert codec.jpeg_quality(codec.encode_jpeg(codec.decode(first), 50)) == 50


def test_a_cut_or_damaged_header_has_no_quality_and_does_no_harm() -> None:
    data, rng = codec.encode_jpeg(frames(1)[0], 80), np.random.default_rng(3)
    assert {codec.jpeg_quality(data[:n]) for n in range(3, 400)} == {None, 80}
    for _ in range(300):
        spoilt = bytearray(data)
        spoilt[int(rng.integers(3, 200))] = int(rng.integers(256))
        found = codec.jpeg_quality(bytes(spoilt))
        assert found is None or 1 <= found <= 100


def test_a_header_that_claims_too_much_is_refused_before_decoding() -> None:
    jpeg = bytearray(codec.encode_jpeg(frames(1)[0], 95))
    at = jpeg.find(b"\xff\xc0") + 5
    jpeg[at : at + 4] = b"\xea\x60\xea\x60"
    png = bytearray(codec.encode_png(frames(1)[0]))
    png[16:24] = b"\x00\x01\x00\x00\x00\x01\x00\x00"
    for data, size in ((jpeg, "60000x60000"), (png, "65536x65536")):
        with pytest.raises(ValueError, match=f"states {size} pixels; at most"):
            codec.decode(bytes(data))


def test_padding_is_cut_at_the_end_of_the_image_and_nowhere_else() -> None:
    for data in (codec.encode_jpeg(frames(1)[0], 95), codec.encode_png(frames(1)[0])):
        row = np.frombuffer(data + bytes(500), np.uint8)
        assert codec.without_padding(row) == codec.without_padding(np.append(row, np.uint8(7))) == data
        with pytest.raises(ValueError, match="damaged or truncated"):
            codec.without_padding(row[: len(data) - 1])


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_frame_is_decoded_as_stored_whatever_its_orientation_tag(kind: str) -> None:
    frame, decoded = frames(1)[0], []
    for tag in (1, 3, 6):
        exif, written = Image.Exif(), io.BytesIO()
        exif[0x0112] = tag
        Image.fromarray(frame).save(written, kind, exif=exif)
        decoded.append(codec.decode(written.getvalue()))
    np.testing.assert_array_equal(decoded[1], decoded[0])
    np.testing.assert_array_equal(decoded[2], decoded[0])
