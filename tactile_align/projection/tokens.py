"""Weights of an encoder's image tokens for a box in a stored image."""

from array_api_compat import array_namespace

from tactile_align.geometry.frames import Array
from tactile_align.geometry.images import ImageMap


def token_weights(box: Array, image_map: ImageMap, grid: tuple[int, int]) -> Array:
    """Return the share of the area of each image token that a box covers.

    Args:
        box: (..., 4) boxes in the source image of `image_map`, px; nan where no box exists.
        image_map: Map from the stored image to the encoder's input.
        grid: (rows, columns) of tokens; token j of width p covers [j p - 0.5, (j + 1) p - 0.5].

    Returns:
        (..., rows, columns) shares in 0..1; all nan for a nan box.
    """
    rows, columns = grid
    moved = image_map.apply_to_box(box)
    along_u = _covered(moved[..., 0, None], moved[..., 2, None], columns, image_map.width / columns)
    along_v = _covered(moved[..., 1, None], moved[..., 3, None], rows, image_map.height / rows)
    return along_v[..., :, None] * along_u[..., None, :]


def _covered(low: Array, high: Array, count: int, side: float) -> Array:
    """Return the share of each of `count` cells of width `side` that lies between low and high (..., 1)."""
    xp = array_namespace(low)
    edge = xp.arange(count, dtype=low.dtype, device=low.device) * side - 0.5
    overlap = xp.minimum(high, edge + side) - xp.maximum(low, edge)
    # clip() would turn nan into a number on some backends; where() keeps it.
    return xp.where(overlap < 0, xp.zeros_like(overlap), overlap) / side
