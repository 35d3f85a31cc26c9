"""Cameras, the rig that holds them, and the solvers that calibrate them."""

from typing import Literal

LensModel = Literal["pinhole", "brown", "rational", "fisheye"]
"""Names of the lens models; `camera.LENS_MODELS` holds what each needs. Here a command can list them without NumPy."""
