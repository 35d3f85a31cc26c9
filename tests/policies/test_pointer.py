"""The contact pointer: what its maps, losses and chance lines are, and what history, touch and memory change."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tactile_align.config.pointer import PointerOptions
from tactile_align.moments.batch import AheadBatch
from tactile_align.policies.pointer import Pointer, PointerMaps, entry_counts

B, K, R, C, D, S = 5, 3, 4, 6, 10, 7
SIZE = (48, 40)  # width and height, px: a token is 8 x 10 px


def pointer(**options: Any) -> Pointer:
    torch.manual_seed(0)
    return Pointer(PointerOptions(views=("v", "w"), width=16, most=K, **options), S, D, 9, (R, C), SIZE)


def inputs(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, R, C, D, generator=generator), torch.randn(B, S, generator=generator)


def ahead(seed: int = 0) -> AheadBatch:
    """Return contacts of which some are unknown, some done and some neither."""
    rng = np.random.default_rng(seed)
    points = torch.from_numpy(rng.uniform(-0.5, [47.5, 39.5], (B, K, 2))).float()
    known = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0], [1, 1, 1]]).bool()
    done = torch.tensor([[0, 0, 0], [0, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 0]]).bool()
    told = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 1, 0]]).bool()
    return AheadBatch(torch.where(known[..., None], points, torch.nan), known, done, told)


def gaussian(point: np.ndarray, sigma: float = 0.75) -> np.ndarray:
    """Return the target map (R, C) of a point, px, by the formula written out for each token."""
    target = np.empty((R, C))
    for row in range(R):
        for column in range(C):
            du, dv = (point[0] + 0.5) / 8 - (column + 0.5), (point[1] + 0.5) / 10 - (row + 0.5)
            target[row, column] = math.exp(-(du**2 + dv**2) / (2 * sigma**2))
    return target / target.sum()


def test_the_losses_are_those_of_their_definitions_over_known_entries_only() -> None:
    model, target = pointer().eval(), ahead()
    maps = PointerMaps(*(part.detach() for part in model(*inputs(), view=1)))
    model.set_rates(1, ahead(1))
    found = {name: float(value) for name, value in model.losses(maps, 1, target, entry_counts(target)).items()}
    crossed, offsets, bces, rates, past = [], [], [], model.done_rate[1].double(), ahead(1)
    positives, negatives = int((past.done & past.done_known).sum()) + 1, int((~past.done & past.done_known).sum()) + 1
    weight = negatives / positives
    for b in range(B):
        for k in range(K):
            if target.known[b, k]:
                point = target.points[b, k].double().numpy()
                log = maps.logits[b, k].detach().double().numpy()
                log = log - np.log(np.exp(log).sum())
                crossed.append(-(gaussian(point) * log).sum())
                column, row = int((point[0] + 0.5) // 8), int((point[1] + 0.5) // 10)
                wanted = [(point[0] + 0.5) / 8 - column - 0.5, (point[1] + 0.5) / 10 - row - 0.5]
                error = np.abs(maps.offsets[b, row, column].detach().double().numpy() - wanted)
                offsets.append(np.where(error < 0.25, error**2 / 0.5, error - 0.125).sum())
            if target.done_known[b, k]:
                p = 1 / (1 + math.exp(-float(maps.done[b, k])))
                q = weight * float(rates[k]) / (weight * float(rates[k]) + 1 - float(rates[k]))
                yes = bool(target.done[b, k])
                bces.append([-weight * math.log(x) if yes else -math.log(1 - x) for x in (p, q)])
    assert found["map"] == pytest.approx(np.mean(crossed), rel=1e-5)
    assert found["offset"] == pytest.approx(np.mean(offsets), rel=1e-5)
    assert [found["done"], found["done_chance"]] == pytest.approx(np.mean(bces, axis=0), rel=1e-5)
    assert found["map_flat"] == pytest.approx(math.log(R * C))
    assert found["pointer"] == pytest.approx(found["map"] + found["offset"] + 0.25 * found["done"])
    assert (found["targets"], found["left_out"], found["done_targets"], found["done_left_out"]) == (9, 1, 13, 2)


def test_the_chance_of_the_map_is_the_loss_of_the_mean_map_of_the_training_split() -> None:
    model, past, target = pointer(), ahead(1), ahead()
    model.set_rates(0, past)
    for k in range(K):
        points = past.points[:, k][past.known[:, k]].double().numpy()
        mean = (sum(gaussian(point) for point in points) + 1 / (R * C)) / (len(points) + 1)
        assert np.allclose(model.mean_map[0, k], mean, atol=1e-6)
    as_mean = model.mean_map[0].log().expand(B, K, R, C)
    maps = PointerMaps(as_mean, torch.zeros(B, R, C, 2), torch.zeros(B, K))
    found = model.losses(maps, 0, target, entry_counts(target))
    assert float(found["map"]) == pytest.approx(float(found["map_chance"]), rel=1e-5)


def test_a_point_is_read_at_the_best_token_and_its_offset_without_a_limit() -> None:
    logits, offsets = torch.zeros(1, K, R, C), torch.zeros(1, R, C, 2)
    logits[0, 0, 2, 4] = logits[0, 1, 0, 0] = logits[0, 2, 3, 5] = 1.0
    offsets[0, 2, 4], offsets[0, 3, 5] = torch.tensor([0.25, -0.5]), torch.tensor([3.0, 0.0])
    found = pointer().output(PointerMaps(logits, offsets, torch.tensor([[0.0, 2.0, -2.0]])), 0)
    # Token 4 covers u from 31.5 to 39.5 px, token 2 covers v from 19.5 to 29.5 px.
    assert found.points[0].tolist() == [[37.5, 19.5], [3.5, 4.5], [67.5, 34.5]]
    assert found.done[0].tolist() == pytest.approx([0.5, 0.8808, 0.1192], abs=1e-4)
    assert found.says_done[0].tolist() == [False, True, False]


def test_the_probability_of_done_is_its_rate_where_nothing_tells_it() -> None:
    model, done = pointer(), torch.zeros(100, K, dtype=torch.bool)
    done[:10] = True
    split = AheadBatch(torch.full((100, K, 2), torch.nan), done & False, done, done | True)
    model.set_rates(1, split)
    logit = torch.zeros((), requires_grad=True)
    maps = PointerMaps(torch.zeros(100, K, R, C), torch.zeros(100, R, C, 2), logit.expand(100, K))
    optimiser = torch.optim.LBFGS([logit], line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = model.losses(maps._replace(done=logit.expand(100, K)), 1, split, entry_counts(split))["done"]
        value.backward()
        return value

    optimiser.step(loss)
    found = model.output(maps._replace(done=logit.expand(100, K)), 1)
    assert found.done.tolist()[0] == pytest.approx([0.1] * K, abs=0.005)
    assert abs(float(logit.detach())) < 0.1  # the decision is balanced: it changes where nothing is known


def test_the_true_point_is_found_again_from_its_target_and_offset() -> None:
    model, target = pointer(), ahead()
    points = target.points[target.known]
    cells = model.cells(points)
    logits = model.targets(points).log()[:, None]
    offsets = torch.zeros(len(points), R, C, 2)
    offsets.view(len(points), -1, 2)[torch.arange(len(points)), cells] = (
        (points + 0.5) / torch.tensor([8.0, 10.0]) - torch.stack([cells % C, cells // C], dim=1) - 0.5
    )
    found = model.output(PointerMaps(logits, offsets, torch.zeros(len(points), 1)), 0)
    assert torch.allclose(found.points[:, 0], points, atol=1e-4)


def test_parts_of_a_step_add_up_to_the_losses_of_the_complete_step() -> None:
    model, target = pointer().eval(), ahead()
    maps = PointerMaps(*(part.detach() for part in model(*inputs(), view=0)))
    counts = entry_counts(target)
    whole = model.losses(maps, 0, target, counts)
    parts = []
    for rows in (slice(0, 2), slice(2, 5)):
        part = PointerMaps(*(value[rows] for value in maps))
        some = AheadBatch(*(getattr(target, name)[rows] for name in ("points", "known", "done", "done_known")))
        parts.append(model.losses(part, 0, some, counts))
    for name, value in whole.items():
        assert float(parts[0][name] + parts[1][name]) == pytest.approx(float(value), rel=1e-5), name


def test_a_batch_without_targets_has_a_zero_loss_with_a_finite_gradient() -> None:
    model = pointer()
    none = torch.zeros(B, K, dtype=torch.bool)
    target = AheadBatch(torch.full((B, K, 2), torch.nan), none, none, none)
    loss = model.losses(model(*inputs(), view=0), 0, target, entry_counts(target))["pointer"]
    loss.backward()
    assert float(loss) == 0 and all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(("option", "reads"), [("history", True), ("memory", True), ("touch", False)])
def test_only_history_and_memory_use_the_contact_before(option: str, reads: bool) -> None:
    model = pointer(**{option: True}).eval()
    tokens, state = inputs()
    touch = torch.randn(B, 9, generator=torch.Generator().manual_seed(3)) if option == "touch" else None
    truth = ahead().points
    moved = truth.clone()
    moved[0, 0] = torch.tensor([3.0, 36.0]) if float(truth[0, 0, 0]) > 24 else torch.tensor([44.0, 2.0])
    one, two = (model(tokens, state, 0, touch, points).logits for points in (truth, moved))
    assert torch.equal(one[:, 0], two[:, 0])  # nothing comes before the first contact
    assert bool((one[0, 1] != two[0, 1]).any()) == reads and torch.equal(one[1:], two[1:])


def test_the_touch_changes_the_map_only_where_the_option_is_on() -> None:
    model = pointer(touch=True).eval()
    one, two = (model(*inputs(), 0, torch.full((B, 9), value)).logits for value in (0.0, 1.0))
    assert not torch.allclose(one, two)


def test_history_at_test_time_is_the_pointers_own_point_unless_it_said_done() -> None:
    model = pointer(history=True).eval()
    tokens, state = inputs()
    with torch.no_grad():
        model.done[2].bias.fill_(-100.0)
        alone = model(tokens, state, 0)
        own = model.output(alone, 0).points.clone()
        assert torch.allclose(alone.logits, model(tokens, state, 0, truth=own).logits, atol=1e-5)
        model.done[2].bias.fill_(100.0)
        nothing = torch.full((B, K, 2), torch.nan)
        assert torch.equal(model(tokens, state, 0).logits, model(tokens, state, 0, truth=nothing).logits)


def test_training_blurs_the_history_and_evaluation_does_not() -> None:
    model = pointer(history=True)
    tokens, state = inputs()
    runs = [model(tokens, state, 0, truth=ahead().points).logits for _ in range(2)]
    assert not torch.equal(runs[0][0, 1], runs[1][0, 1])
    model.eval()
    runs = [model(tokens, state, 0, truth=ahead().points).logits for _ in range(2)]
    assert torch.equal(*runs)


def test_options_without_an_effect_are_refused() -> None:
    with pytest.raises(ValueError, match=r"pointer.memory = true needs contacts before the last"):
        PointerOptions(views=("v",), most=1, memory=True)
    with pytest.raises(ValueError, match=r"pointer.history_noise_px = 1 changes nothing"):
        PointerOptions(views=("v",), history_noise_px=1.0)
    with pytest.raises(ValueError, match="done_weight"):
        PointerOptions(views=("v",), done_weight=0)
    with pytest.raises(ValueError, match=r"pointer\.views has v several times"):
        PointerOptions(views=("v", "w", "v"))
