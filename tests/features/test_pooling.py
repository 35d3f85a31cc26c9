"""From the tokens of a region to one vector."""

from typing import Literal, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from tactile_align.config.features import FeatureConfig, Pooling
from tactile_align.features.pooling import (
    AttentionPooling,
    GridPooling,
    MeanPooling,
    TimePooling,
    blurred_weights,
    make_pooling,
    region_grid,
)
from tactile_align.geometry.images import ImageMap
from tactile_align.projection.tokens import token_weights

WIDTH, HEIGHT, ROWS, COLUMNS = 160, 96, 6, 10  # tokens of 16 px


def ramp() -> Tensor:
    """Tokens that hold the pixel coordinates (u, v) of their centres, (1, rows, columns, 2)."""
    u = torch.arange(COLUMNS) * 16 + 7.5
    v = torch.arange(ROWS) * 16 + 7.5
    return torch.stack(torch.meshgrid(u, v, indexing="xy"), dim=-1)[None]


def test_the_grid_samples_the_place_it_stands_for_without_a_half_pixel_slip() -> None:
    # Inside the image bilinear sampling of a linear ramp is exact, so each cell must return its own centre.
    box = torch.tensor([[30.3, 20.7, 94.3, 52.7]])
    found = region_grid(ramp(), box, (WIDTH, HEIGHT), 4)[0]
    u = 30.3 + (torch.arange(4) + 0.5) * 16
    v = 20.7 + (torch.arange(4) + 0.5) * 8
    want = torch.stack(torch.meshgrid(u, v, indexing="xy"), dim=-1)
    torch.testing.assert_close(found, want, atol=1e-3, rtol=0)
    signed = (found - want).mean(dim=(0, 1))
    assert signed.abs().max() < 1e-3, "a slip of half a pixel would show here with its sign"


def test_a_box_of_whole_tokens_returns_those_tokens() -> None:
    tokens = torch.randn(1, ROWS, COLUMNS, 3)
    box = torch.tensor([[3 * 16 - 0.5, 2 * 16 - 0.5, 7 * 16 - 0.5, 6 * 16 - 0.5]])
    torch.testing.assert_close(region_grid(tokens, box, (WIDTH, HEIGHT), 4)[0], tokens[0, 2:6, 3:7], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 2), (1, 3)])
def test_a_bright_token_in_the_box_lands_in_its_cell(row: int, column: int) -> None:
    tokens = torch.zeros(2, ROWS, COLUMNS, 1)
    tokens[1, 1 + row, 5 + column] = 1.0
    box = torch.tensor([[-0.5, -0.5, 63.5, 63.5], [5 * 16 - 0.5, 16 - 0.5, 9 * 16 - 0.5, 5 * 16 - 0.5]])
    found = region_grid(tokens, box, (WIDTH, HEIGHT), 4)[..., 0]
    assert divmod(int(found[1].argmax()), 4) == (row, column) and found[1].sum() == 1
    assert found[0].abs().sum() == 0, "a row of the batch sees its own image only"


def test_the_mean_weighs_tokens_by_the_area_in_the_box() -> None:
    tokens = torch.randn(1, ROWS, COLUMNS, 4)
    pool = MeanPooling(4, 4, margin=1.0)
    torch.nn.init.eye_(pool.project.weight)
    torch.nn.init.zeros_(pool.project.bias)
    box = torch.tensor([[40.0, 10.0, 70.0, 20.0]])
    # Oracle: every box pixel, ten times finer, names its token.
    u = np.linspace(40, 70, 3001)[:-1] + 0.005
    v = np.linspace(10, 20, 1001)[:-1] + 0.005
    columns, rows = np.floor((u + 0.5) / 16).astype(int), np.floor((v + 0.5) / 16).astype(int)
    share_u, share_v = np.bincount(columns, minlength=COLUMNS), np.bincount(rows, minlength=ROWS)
    weights = torch.from_numpy(np.outer(share_v, share_u) / (len(u) * len(v))).float()
    want = torch.einsum("rc,rcd->d", weights, tokens[0])
    torch.testing.assert_close(pool(tokens, box, (WIDTH, HEIGHT))[0], want, atol=1e-4, rtol=1e-4)


def test_a_margin_looks_further_around_the_box() -> None:
    torch.manual_seed(0)
    tokens = torch.zeros(1, ROWS, COLUMNS, 2)
    tokens[0, 2, 7] = 1.0  # beside the box
    box = torch.tensor([[4 * 16 - 0.5, 16 - 0.5, 6 * 16 - 0.5, 4 * 16 - 0.5]])
    tight, wide = GridPooling(2, 3, margin=1.0), GridPooling(2, 3, margin=2.5)
    wide.load_state_dict(tight.state_dict())
    empty = torch.zeros_like(tokens)
    assert torch.equal(tight(tokens, box, (WIDTH, HEIGHT)), tight(empty, box, (WIDTH, HEIGHT)))
    assert not torch.equal(wide(tokens, box, (WIDTH, HEIGHT)), wide(empty, box, (WIDTH, HEIGHT)))


def test_an_unknown_pooling_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown pooling 'max'.*grid.*mean"):
        make_pooling("max", 4, 4)  # type: ignore[arg-type]


def test_a_blurred_box_is_the_average_over_where_the_box_may_be() -> None:
    box = torch.tensor([[40.0, 10.0, 70.0, 20.0]], dtype=torch.float64)
    spread = torch.tensor([[6.0, 3.0]], dtype=torch.float64)
    found = blurred_weights(box, (WIDTH, HEIGHT), (ROWS, COLUMNS), spread)
    moves = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * spread
    moved = box + torch.cat([moves, moves], dim=1)
    want = token_weights(moved, ImageMap.identity(WIDTH, HEIGHT), (ROWS, COLUMNS)).mean(dim=0)
    torch.testing.assert_close(found[0], want, atol=2e-3, rtol=0)


def test_each_box_of_a_batch_is_blurred_by_its_own_width() -> None:
    tokens = torch.zeros(3, ROWS, COLUMNS, 1)
    tokens[:, 2, 4] = 1.0  # pixels 63.5..79.5 by 31.5..47.5: the pooled value is the share of the box in there
    pool = MeanPooling(1, 1, margin=1.0, sigma_px="rig")
    torch.nn.init.ones_(pool.project.weight)
    torch.nn.init.zeros_(pool.project.bias)
    box = torch.tensor([[63.5, 31.5, 79.5, 47.5]]).repeat(3, 1)
    found = pool(tokens, box, (WIDTH, HEIGHT), torch.tensor([[0.0, 0.0], [4.0, 0.0], [4.0, 8.0]]))[:, 0]
    moves = np.random.default_rng(0).normal(size=(400_000, 2))
    # Shifted by d, a box of 16 px keeps (16 - |d|) / 16 of its length in the token it filled.
    kept = {s: np.maximum(1 - np.abs(s * moves[:, int(s == 8)]) / 16, 0).mean() for s in (4, 8)}
    want = torch.tensor([1.0, kept[4], kept[4] * kept[8]], dtype=torch.float32)
    torch.testing.assert_close(found, want, atol=3e-3, rtol=0)


def test_widths_go_with_the_rig_and_nothing_else() -> None:
    tokens, box = torch.randn(1, ROWS, COLUMNS, 2), torch.tensor([[40.0, 10.0, 70.0, 20.0]])
    with pytest.raises(ValueError, match=r"sigma is missing; sigma_px = 'rig'"):
        MeanPooling(2, 2, sigma_px="rig")(tokens, box, (WIDTH, HEIGHT))
    with pytest.raises(ValueError, match=r"sigma was given, but sigma_px = 4\.0"):
        MeanPooling(2, 2, sigma_px=4.0)(tokens, box, (WIDTH, HEIGHT), torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"needs pooling = 'gaussian'; got pooling = 'grid'"):
        FeatureConfig(sigma_px="rig")
    assert FeatureConfig(pooling="gaussian", sigma_px="rig").sigma_px == "rig"


@pytest.mark.parametrize("kind", get_args(Pooling))
def test_every_pooling_reads_the_enlarged_box_and_nothing_outside_it(kind: Pooling) -> None:
    # The box has 2 x 2 tokens, enlarged 4 x 4. A grid of 2 samples the centres of these tokens and reads no others.
    box = torch.tensor([[3 * 16 - 0.5, 2 * 16 - 0.5, 5 * 16 - 0.5, 4 * 16 - 0.5]])
    tokens = torch.randn(1, ROWS, COLUMNS, 8)
    tight, wide = (make_pooling(kind, 8, 5, 2, margin, 0.0).eval() for margin in (1.0, 2.0))
    if isinstance(tight, MeanPooling) and isinstance(wide, MeanPooling):
        tight.block = wide.block = None  # the block mixes all tokens before the box is read
    for pool, columns, rows in ((tight, (3, 5), (2, 4)), (wide, (2, 6), (1, 5))):
        read = tokens.clone().requires_grad_()
        pool(read, box, (WIDTH, HEIGHT)).sum().backward()
        assert read.grad is not None
        inside = torch.zeros(ROWS, COLUMNS, dtype=torch.bool)
        inside[slice(*rows), slice(*columns)] = True
        assert torch.equal(read.grad[0].abs().sum(dim=-1) > 1e-6, inside)


@pytest.mark.parametrize("margin", [1.0, 2.0])
def test_attention_looks_as_far_as_its_margin_reaches(margin: float) -> None:
    torch.manual_seed(0)
    pool = AttentionPooling(8, 5, margin=margin)
    tokens = torch.randn(1, ROWS, COLUMNS, 8)
    box = torch.tensor([[3 * 16 - 0.5, 2 * 16 - 0.5, 5 * 16 - 0.5, 4 * 16 - 0.5]])
    beside = tokens.clone()
    beside[0, 2, 5] = torch.randn(8)  # one token right of the box, inside twice its size
    same = torch.equal(pool(tokens, box, (WIDTH, HEIGHT)), pool(beside, box, (WIDTH, HEIGHT)))
    assert same == (margin == 1.0)


def test_a_calibration_without_doubt_leaves_the_box_as_it_is() -> None:
    box = torch.tensor([[40.0, 10.0, 70.0, 20.0]], dtype=torch.float64)
    found = blurred_weights(box, (WIDTH, HEIGHT), (ROWS, COLUMNS), 1e-4)
    torch.testing.assert_close(
        found, token_weights(box, ImageMap.identity(WIDTH, HEIGHT), (ROWS, COLUMNS)), atol=1e-5, rtol=0
    )


def test_attention_sees_the_tokens_of_the_box_and_no_others() -> None:
    torch.manual_seed(0)
    pool = AttentionPooling(8, 5, margin=1.0)
    tokens = torch.randn(1, ROWS, COLUMNS, 8)
    box = torch.tensor([[3 * 16 - 0.5, 2 * 16 - 0.5, 5 * 16 - 0.5, 4 * 16 - 0.5]])
    before = pool(tokens, box, (WIDTH, HEIGHT))
    outside = tokens.clone()
    outside[0, :2] = outside[0, 4:] = 7.0
    assert torch.equal(pool(outside, box, (WIDTH, HEIGHT)), before)
    inside = tokens.clone()
    inside[0, 2, 3] = torch.randn(8)
    assert not torch.allclose(pool(inside, box, (WIDTH, HEIGHT)), before)


def test_attention_knows_places_relative_to_the_box_only() -> None:
    torch.manual_seed(0)
    pool = AttentionPooling(8, 5, margin=1.0)
    patch = torch.randn(2, 3, 8)
    tokens = torch.zeros(2, ROWS, COLUMNS, 8)
    tokens[0, 1:3, 2:5] = tokens[1, 3:5, 6:9] = patch
    box = torch.tensor([[31.5, 15.5, 79.5, 47.5], [95.5, 47.5, 143.5, 79.5]])
    found = pool(tokens, box, (WIDTH, HEIGHT))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)
    swapped = tokens.clone()
    swapped[1, 3:5, 6:9] = patch.flip(1)
    mirrored = pool(swapped, box, (WIDTH, HEIGHT))
    assert not torch.allclose(mirrored[1], found[1], atol=1e-3), "the same tokens in another order are another thing"


def test_a_block_before_the_mean_lets_tokens_outside_the_box_speak() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(1, ROWS, COLUMNS, 8)
    box = torch.tensor([[3 * 16 - 0.5, 2 * 16 - 0.5, 5 * 16 - 0.5, 4 * 16 - 0.5]])
    far = tokens.clone()
    far[0, 0, 0] = torch.randn(8)
    plain, block = (make_pooling(kind, 8, 5).eval() for kind in ("mean", "mean_block"))
    assert torch.equal(plain(tokens, box, (WIDTH, HEIGHT)), plain(far, box, (WIDTH, HEIGHT)))
    assert not torch.equal(block(tokens, box, (WIDTH, HEIGHT)), block(far, box, (WIDTH, HEIGHT)))


@pytest.mark.parametrize("kind", ["last", "attention"])
def test_the_pooling_over_time_works_place_by_place_and_knows_the_order(kind: Literal["last", "attention"]) -> None:
    torch.manual_seed(4)
    pool, tokens = TimePooling(8, 3, kind), torch.randn(2, 3, 4, 5, 8)
    pooled = pool(tokens)
    assert pooled.shape == (2, 4, 5, 8)
    steps = pool.block(tokens[1, :, 2, 3][None] + pool.age)[0]  # the three ages of one place
    wanted = steps[0]
    if pool.score is not None:
        score = steps @ pool.score.weight[0] + pool.score.bias
        wanted = (score.exp() / score.exp().sum()) @ steps
    torch.testing.assert_close(pooled[1, 2, 3], wanted)
    assert (pool(tokens[:, [1, 0, 2]]) - pooled).abs().max() > 1e-2 < (pool(tokens[:, [0, 2, 1]]) - pooled).abs().max()
