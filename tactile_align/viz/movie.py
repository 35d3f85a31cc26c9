"""Pictures into an MP4 through PyAV."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from tactile_align.errors import InputError
from tactile_align.extras import need
from tactile_align.files import write_atomically

CODECS = (("libx264", {"crf": "20", "preset": "veryfast"}), ("mpeg4", {"q:v": "3"}))
"""Tried in this order; not every build of FFmpeg has x264."""


def require_av() -> Any:
    """Return the `av` module.

    Raises:
        ModuleNotFoundError: PyAV is not installed; says how to get it.
    """
    return need("av", "an MP4", "PyAV", "video", "format='sheet' and 'png' do without")


def write_movie(path: Path, frames: Iterable[np.ndarray], fps: float) -> Path:
    """Write pictures as an MP4 that browsers play.

    Args:
        path: The file.
        frames: (H, W, 3) uint8 RGB, H and W even, all alike.
        fps: Pictures a second.

    Returns:
        The path.

    Raises:
        ModuleNotFoundError: PyAV is not installed.
        InputError: No frame, or a rate that is not positive.
    """
    av = require_av()
    if not (np.isfinite(fps) and fps > 0):
        raise InputError(f"{path}: a movie needs a positive number of frames a second; got {fps}")
    write_atomically(path, lambda part: _encode(av, part, path, frames, fps))
    return path


def _encode(av: Any, part: Path, path: Path, frames: Iterable[np.ndarray], fps: float) -> None:
    with av.open(str(part), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = None
        for frame in frames:
            if stream is None:
                stream = _stream(av, container, frame, fps)
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        if stream is None:
            raise ValueError(f"{path}: a movie needs at least one frame; got none")
        for packet in stream.encode():
            container.mux(packet)


def _stream(av: Any, container: Any, frame: np.ndarray, fps: float) -> Any:
    name, options = next((c for c in CODECS if c[0] in av.codecs_available), CODECS[-1])
    stream = container.add_stream(name, rate=Fraction(fps).limit_denominator(1000), options=dict(options))
    stream.height, stream.width = frame.shape[:2]
    stream.pix_fmt = "yuv420p"
    return stream
