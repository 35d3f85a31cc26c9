"""Next-touch prediction on windows whose next touches are known, and against a recomputation in float64."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tactile_align.losses.next_touch import NextTouch

ROWS, WIDTH = 7, 5


class Extrapolation(nn.Module):
    """Continuation of the line through the two newest of K touches."""

    def forward(self, tokens: Tensor) -> Tensor:
        assert tokens.shape[2:] == (3, 2, WIDTH), "(B, K, rows, columns, D)"
        return 2 * tokens[:, 0] - tokens[:, 1]


def objective(context: int) -> NextTouch:
    """Return the objective with z = the mean token, so that no projector stands between tokens and terms."""
    made = NextTouch(Extrapolation(), context, WIDTH, 8, 4, 0.25, 16)
    made.projector = nn.Identity()
    made.dim = WIDTH
    return made


def windows(count: int) -> Tensor:
    return torch.randn(count, ROWS, 3, 2, WIDTH, generator=torch.Generator().manual_seed(1))


def test_touches_that_move_on_a_line_are_predicted_and_a_copy_is_wrong_by_one_and_two_steps() -> None:
    made, start, step = objective(2), *windows(2)
    along = torch.stack([start + (3 - i) * step for i in range(4)])  # the newest first
    parts = made(lambda images: along.flatten(0, 1), torch.zeros(4, ROWS, 2, 2, 3, dtype=torch.uint8))
    d = step.mean(dim=(1, 2)).square().mean()
    assert float(parts["next"]) < 1e-12 and torch.allclose(parts["next_still"], (1 + 4) / 2 * d / 4)
    assert torch.allclose(parts["loss"], 0.75 * parts["next"] + 0.25 * parts["sigreg"])
    backwards = made(lambda images: along.square().flatten(0, 1), torch.zeros(4, ROWS, 2, 2, 3, dtype=torch.uint8))
    assert float(backwards["next"]) > 0.1


@pytest.mark.parametrize(("context", "rolled_out"), [(2, 1), (3, 3)])
def test_the_terms_are_those_of_their_definition_in_float64(context: int, rolled_out: int) -> None:
    made, tokens = objective(context), windows(context + rolled_out)
    parts = made.pull(made.embed(tokens))
    time = tokens.double().numpy()[::-1]  # the oldest first
    known, errors, still, chance = list(time[:context]), [], [], []
    for target in time[context:]:
        known.append(2 * known[-1] - known[-2])
        z = target.mean(axis=(1, 2))
        errors.append((known[-1].mean(axis=(1, 2)) - z) ** 2)
        still.append((time[context - 1].mean(axis=(1, 2)) - z) ** 2)
        chance.append((z - z.mean(axis=0)) ** 2)
    for name, values in (("next", errors), ("next_still", still), ("next_chance", chance)):
        assert float(parts[name]) == pytest.approx(np.mean(values) / 4, rel=1e-5), name


def test_the_gradient_reaches_context_and_next_touch_but_not_the_values_to_compare_with() -> None:
    made, tokens = objective(2), windows(3).requires_grad_()
    parts = made.pull(made.embed(tokens))
    (slope,) = torch.autograd.grad(parts["next"], tokens)
    assert (slope.flatten(1).abs().amax(dim=1) > 0).all()
    assert not parts["next_chance"].requires_grad and not parts["next_still"].requires_grad
