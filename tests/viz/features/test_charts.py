"""Charts of features: what is drawn stays inside the picture and can be read."""

from typing import Any

import numpy as np
import pytest

from tactile_align.viz.features import charts
from tactile_align.viz.features.charts import attention_over_time, similarity_matrix
from tactile_align.viz.features.run_pictures import WIDEST_PX, wrapped


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The matplotlib figures of the charts that are drawn in a test."""
    kept: list[Any] = []
    pixels = charts.pixels_of

    def keep(figure: Any) -> np.ndarray:
        kept.append(figure)
        return pixels(figure)

    monkeypatch.setattr(charts, "pixels_of", keep)
    return kept


def test_the_attention_of_four_views_has_its_legend_in_the_picture_and_beside_the_curves(figures: list[Any]) -> None:
    views = [
        f"region {camera}-{sensor}" for camera in ("wrist", "scene") for sensor in ("tactile_left", "tactile_right")
    ]
    names = ["latent", "joints", "camera wrist", "camera scene", *views, "touch tactile_left", "touch tactile_right"]
    attention_over_time(np.full((30, len(names)), 0.1), names, contact=np.arange(30) > 9)
    (figure,), (axes,) = figures, figures[0].axes
    (legend,) = figure.legends
    shown, whole = legend.get_window_extent(), figure.bbox
    assert shown.x0 >= 0 and shown.x1 <= whole.width and shown.y0 >= 0
    assert not shown.overlaps(axes.get_window_extent()) and axes.get_window_extent().height > 0.4 * whole.height


def test_the_rows_of_a_small_matrix_are_counted_in_whole_numbers(figures: list[Any]) -> None:
    rng = np.random.default_rng(0)
    similarity_matrix(rng.normal(size=(3, 8)), rng.normal(size=(3, 8)), title="scene-tactile_right: cosines $" * 3)
    left = figures[0].axes[0]
    for axis in (left.xaxis, left.yaxis):
        assert all(float(tick).is_integer() for tick in axis.get_majorticklocs())
    title = left.title.get_window_extent()
    assert title.x0 >= 0 and title.x1 <= figures[0].bbox.width


def test_pictures_of_many_views_take_several_lines_of_limited_width() -> None:
    image = np.full((240, 320, 3), 200, np.uint8)
    picture = wrapped([image] * 10)
    assert picture.shape[1] <= WIDEST_PX and picture.shape[0] == 3 * 240 + 2 * 6
    assert wrapped([image] * 2).shape == (240, 646, 3)
