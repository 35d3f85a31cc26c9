"""The names of the lens models; `camera.LENS_MODELS` holds what each needs. Nothing heavy is imported here."""

from typing import Literal

LensModel = Literal["pinhole", "brown", "rational", "fisheye"]
