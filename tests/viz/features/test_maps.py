import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose

from tactile_align.geometry.images import ImageMap
from tactile_align.viz.features.charts import attention_over_time, embedding, similarity_matrix
from tactile_align.viz.features.maps import principal_components, retrieval_gallery, similarity_map
from tactile_align.viz.features.run_pictures import headed
from tactile_align.viz.ink import ORANGE


def test_each_token_colours_its_own_pixels() -> None:
    scores = np.zeros((3, 4))
    scores[1, 2] = 1.0
    image = np.full((90, 160, 3), 128, np.uint8)
    picture = similarity_map(image, scores)[-90:]
    lit = (picture != picture[0, 0]).any(axis=-1)
    expected = np.zeros((90, 160), bool)
    expected[30:60, 80:120] = True
    assert (lit == expected).all()
    assert picture[45, 100, 0] > picture[45, 100, 2] and picture[0, 0, 2] > picture[0, 0, 0]  # cividis: blue to yellow


def test_tokens_follow_crop_and_turn_and_pixels_no_token_sees_stay_grey() -> None:
    image = np.full((80, 160, 3), 128, np.uint8)
    into = ImageMap.identity(160, 80).rotate180().crop(40, 0, 80, 80).resize(64, 64)
    scores = np.zeros((2, 2))
    scores[0, 0] = 1.0
    picture = similarity_map(image, scores, input_map=into)[-80:]
    assert (picture[:, :40] == 128).all() and (picture[:, 120:] == 128).all()
    # The first token sees the turned image's upper left part: the recorded one's lower right.
    lit = picture[..., 0].astype(int) - picture[..., 2] > 0
    expected = np.zeros((80, 160), bool)
    expected[40:, 80:120] = True
    assert (lit == expected).all()


def test_given_limits_make_two_maps_comparable_and_nan_stays_uncovered() -> None:
    image = np.full((80, 120, 3), 128, np.uint8)
    low, high = (similarity_map(image, np.full((2, 2), s), limits=(0.0, 1.0))[-80:] for s in (0.2, 0.9))
    assert (low != high).any()
    holed = np.array([[np.nan, 0.2], [0.2, 0.2]])
    picture = similarity_map(image, holed, limits=(0.0, 1.0))[-80:]
    assert (picture[:40, :60] == 128).all() and (picture[40:] == low[40:]).all()


def test_a_map_that_cannot_be_drawn_is_refused() -> None:
    image = np.zeros((80, 120, 3), np.uint8)
    with pytest.raises(ValueError, match="a finite number"):
        similarity_map(image, np.full((2, 2), np.nan))
    with pytest.raises(ValueError, match="160x80, but the image is 120x80"):
        similarity_map(image, np.zeros((2, 2)), input_map=ImageMap.identity(160, 80))
    with pytest.raises(ValueError, match="low < high"):
        similarity_map(image, np.zeros((2, 2)), limits=(1.0, 0.0))


def gallery(similarity: np.ndarray, **more: object) -> np.ndarray:
    touches = [np.full((40, 30, 3), 60, np.uint8)] * len(similarity)
    views = [np.full((30, 40, 3), 20 * i + 40, np.uint8) for i in range(similarity.shape[1])]
    return retrieval_gallery(touches, views, similarity, height=60, **more)  # type: ignore[arg-type]


def framed(picture: np.ndarray) -> np.ndarray:
    """Return the runs of frame-coloured pixels long enough to be a frame, by row."""
    lit = (picture == ORANGE).all(axis=-1)
    return np.flatnonzero(lit.sum(axis=1) > 50)


def test_the_right_view_is_framed_where_it_was_ranked() -> None:
    similarity = np.array([[0.9, 0.5, 0.1, 0.0], [0.2, 0.8, 0.4, 0.3], [0.9, 0.8, 0.1, 0.7]])
    for query, place in ((0, 0), (1, 0), (2, 3)):
        picture = gallery(similarity, queries=[query], top=4)
        columns = np.flatnonzero((picture == ORANGE).all(axis=-1).sum(axis=0) > 40)
        cell = picture.shape[1] / 5
        assert {int(u / cell) - 1 for u in columns} == {place}
        # Views in falling order of similarity: their grey names which view it is.
        v = picture.shape[0] // 2
        greys = [int(picture[v, int((k + 1.5) * cell), 0]) for k in range(4)]
        assert greys == [20 * i + 40 for i in np.argsort(-similarity[query])]


def test_nothing_is_framed_when_the_right_view_is_not_among_the_nearest() -> None:
    similarity = np.array([[0.1, 0.9, 0.8, 0.7]])
    assert len(framed(gallery(similarity, top=3))) == 0
    assert len(framed(gallery(similarity, top=4))) > 0
    assert len(framed(gallery(similarity, top=3, right=np.array([2])))) > 0


def test_a_gallery_refuses_what_does_not_pair() -> None:
    with pytest.raises(ValueError, match=r"\(1, 4\).*got \(4,\)"):
        touches, views = [np.zeros((4, 4, 3), np.uint8)], [np.zeros((4, 4, 3), np.uint8)] * 4
        retrieval_gallery(touches, views, np.zeros(4))
    with pytest.raises(ValueError, match="index from 0 to 1"):
        gallery(np.zeros((1, 2)), right=np.array([2]))


def test_principal_components_agree_with_the_covariance_matrix() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, 5)) @ np.diag([5, 3, 1, 0.5, 0.1]) @ np.linalg.qr(rng.normal(size=(5, 5)))[0]
    coordinates, shares = principal_components(x)
    values, vectors = np.linalg.eigh(np.cov(x.T))
    assert_allclose(shares, values[::-1][:2] / values.sum(), rtol=1e-10)
    expected = (x - x.mean(axis=0)) @ vectors[:, ::-1][:, :2]
    assert_allclose(np.abs(coordinates), np.abs(expected), atol=1e-9)
    assert (coordinates.max(axis=0) >= np.abs(coordinates.min(axis=0))).all()


def test_principal_components_of_equal_rows_are_zero_and_nan_is_refused() -> None:
    coordinates, shares = principal_components(np.ones((4, 3)))
    assert (coordinates == 0).all() and (shares == 0).all()
    with pytest.raises(ValueError, match="finite"):
        principal_components(np.full((4, 3), np.nan))


def test_charts_are_pictures_and_hostile_labels_are_plain_text() -> None:
    rng = np.random.default_rng(0)
    h_tau, h_w = rng.normal(size=(2, 30, 8))
    names = [("$\\frac{", "_hidden", "<script>", "n" * 300)[i % 4] for i in range(30)]
    for picture in (
        similarity_matrix(h_tau, h_w, groups=np.arange(30) // 10),
        embedding(h_tau, h_w, names, label_name="object", title="$x"),
        embedding(h_tau, h_w, np.arange(30), label_name="episode"),
        attention_over_time(rng.random((20, 2)), ["touch", "$"], contact=np.arange(20) > 10),
    ):
        assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.std() > 10


def test_charts_refuse_features_that_do_not_pair() -> None:
    h = np.zeros((4, 8))
    with pytest.raises(ValueError, match=r"both have the shape"):
        similarity_matrix(h, h[:3])
    with pytest.raises(ValueError, match=r"without a box"):
        embedding(np.full((4, 8), np.nan), h, ["a"] * 4)
    with pytest.raises(ValueError, match=r"4 entries, one per row; got 3"):
        embedding(h, h, ["a"] * 3)


def test_importing_maps_and_charts_brings_no_matplotlib() -> None:
    modules = "sys, tactile_align.viz.features.maps, tactile_align.viz.features.charts"
    code = f"import {modules}; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_words_above_a_picture_break_into_lines_and_leave_it_whole() -> None:
    picture = np.full((30, 200, 3), 200, np.uint8)
    one, many = headed(picture, "short"), headed(picture, "a title of many words that no line of this width can hold")
    assert one.shape[1] == many.shape[1] == 200 and many.shape[0] >= one.shape[0] + 2 * (one.shape[0] - 30) // 2
    for headed_one in (one, many):
        assert (headed_one[-30:] == 200).all() and headed_one[:-30].max() > 200  # light words on dark ground
