"""What drawing costs beside decoding the frames it draws on."""

import cv2
import pytest
import simplejpeg

from tactile_align.viz.overlay.frame import draw_frame
from tests.benchmarks.overlay import milliseconds, synthetic


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(640, 480), (1920, 1080)])
def test_drawing_costs_less_than_decoding(width: int, height: int) -> None:
    moment, jpegs = synthetic(width, height)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        decode, draw = milliseconds(
            lambda _: [simplejpeg.decode_jpeg(data, "RGB") for data in jpegs], lambda _: draw_frame(moment)
        )
    finally:
        cv2.setNumThreads(threads)
    assert draw < decode
