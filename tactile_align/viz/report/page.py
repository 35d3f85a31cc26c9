"""Self-contained HTML pages from templates: every value escaped; styles, scripts and pictures embedded."""

import base64
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tactile_align.errors import InputError

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
"""Content security policy of a page that fetches nothing."""
LIVE_POLICY = f"{POLICY}; connect-src 'self'"
"""Policy of a served page, which asks its own server for its version."""
WIDEST_PX = 1600
JPEG_QUALITY = 82
SMALL_BYTES = 150_000
"""Largest picture that is embedded unchanged; a larger one is embedded as JPEG at most WIDEST_PX wide."""


@cache
def _templates() -> Environment:
    loader = PackageLoader("tactile_align", "viz")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.policies["json.dumps_kwargs"] = {"allow_nan": False}
    # Our styles and scripts are inserted unchanged: as templates, their braces would be read as jinja's.
    made.globals["source"] = lambda name: Markup(loader.get_source(made, name)[0])
    return made


def filled(template: str, *, policy: str = POLICY, **values: object) -> str:
    """Return a template of `viz` filled with values, each escaped; `| tojson` makes data that is safe in a script.

    Args:
        template: Path of the template below `viz`: "report/report.html".
        policy: Content security policy of the page.
        values: Values of the template's names.
    """
    return _templates().get_template(template).render(policy=Markup(policy), **values)


def image_data(path: Path) -> tuple[str, int, int]:
    """Return a picture as a data URL, and its width and height as embedded.

    Raises:
        InputError: The file is not a picture that OpenCV can read.
    """
    raw = path.read_bytes()
    image = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR) if raw else None
    if image is None:
        raise InputError(f"{path}: needed a PNG or JPEG; it cannot be decoded. Draw it again or remove it")
    height, width = image.shape[:2]
    if len(raw) > SMALL_BYTES or width > WIDEST_PX:
        return jpeg_data(image, WIDEST_PX, JPEG_QUALITY)
    return _data_url(raw, "jpeg" if raw[:3] == b"\xff\xd8\xff" else "png"), width, height


def jpeg_data(bgr: np.ndarray, widest_px: int, quality: int) -> tuple[str, int, int]:
    """Return (H, W, 3) uint8 BGR as the data URL of a JPEG, and its width and height as embedded.

    Args:
        bgr: The image.
        widest_px: Width beyond which it is shrunk, px.
        quality: JPEG quality, 0 to 100.
    """
    if bgr.shape[1] > widest_px:
        high = round(bgr.shape[0] * widest_px / bgr.shape[1])
        bgr = cv2.resize(bgr, (widest_px, high), interpolation=cv2.INTER_AREA)
    raw = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    return _data_url(raw, "jpeg"), int(bgr.shape[1]), int(bgr.shape[0])


def _data_url(raw: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode('ascii')}"
