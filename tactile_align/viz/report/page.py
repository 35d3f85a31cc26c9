"""Self-contained HTML pages made from templates; values are escaped; styles, scripts and pictures are embedded."""

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
"""Content security policy of a served page, which may request its version from its own server."""
WIDEST_PX = 1600
JPEG_QUALITY = 82
SMALL_BYTES = 150_000
"""Maximum size of a picture file that is embedded unchanged; others are embedded as JPEG, at most WIDEST_PX wide."""


@cache
def _templates() -> Environment:
    loader = PackageLoader("tactile_align", "viz")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.policies["json.dumps_kwargs"] = {"allow_nan": False}
    # Styles and scripts are inserted as they are, because jinja would interpret their braces.
    made.globals["source"] = lambda name: Markup(loader.get_source(made, name)[0])
    return made


def filled(template: str, *, policy: str = POLICY, **values: object) -> str:
    """Return the HTML of a template filled with values.

    Every value is escaped. Inside a script, the template uses `| tojson` to insert a value safely.

    Args:
        template: Path of the template in the folder `viz`, e.g. "report/report.html".
        policy: Content security policy of the page.
        values: Values of the variables in the template.
    """
    return _templates().get_template(template).render(policy=Markup(policy), **values)


def image_data(path: Path) -> tuple[str, int, int]:
    """Return a picture file as a data URL, and the width and height of the embedded picture, px.

    Raises:
        InputError: The file is not a picture that OpenCV can read.
    """
    raw = path.read_bytes()
    image = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR) if raw else None
    if image is None:
        raise InputError(f"{path}: not a readable PNG or JPEG. Draw the picture again, or remove the file")
    height, width = image.shape[:2]
    if len(raw) > SMALL_BYTES or width > WIDEST_PX:
        return jpeg_data(image, WIDEST_PX, JPEG_QUALITY)
    return _data_url(raw, "jpeg" if raw[:3] == b"\xff\xd8\xff" else "png"), width, height


def jpeg_data(bgr: np.ndarray, widest_px: int, quality: int) -> tuple[str, int, int]:
    """Return an image (H, W, 3) uint8 BGR as the data URL of a JPEG, and the width and height of the JPEG, px.

    Args:
        bgr: The image.
        widest_px: Maximum width, px; a wider image is shrunk.
        quality: JPEG quality, 0 to 100.
    """
    if bgr.shape[1] > widest_px:
        high = round(bgr.shape[0] * widest_px / bgr.shape[1])
        bgr = cv2.resize(bgr, (widest_px, high), interpolation=cv2.INTER_AREA)
    raw = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    return _data_url(raw, "jpeg"), int(bgr.shape[1]), int(bgr.shape[0])


def _data_url(raw: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode('ascii')}"
