"""The temperature: fixed, or learnt between bounds."""

import math

import pytest
import torch

from tactile_align.losses.temperature import Temperature


def test_a_fixed_temperature_has_nothing_to_learn() -> None:
    kappa = Temperature(0.1)
    assert float(kappa().detach()) == pytest.approx(0.1)
    assert not list(kappa.parameters())


def test_a_learnt_temperature_starts_where_it_was_told_and_learns() -> None:
    kappa = Temperature(0.07, learnt=True, bounds=(0.01, 0.5))
    assert float(kappa().detach()) == pytest.approx(0.07, rel=1e-5)
    kappa().backward()
    assert kappa.x.grad is not None and float(kappa.x.grad) != 0


@pytest.mark.parametrize(("direction", "bound"), [(1, 0.01), (-1, 0.5)])
def test_a_learnt_temperature_nears_its_bound_and_comes_back(direction: int, bound: float) -> None:
    kappa = Temperature(0.07, learnt=True, bounds=(0.01, 0.5))
    optimiser = torch.optim.Adam(kappa.parameters(), lr=0.05)

    def pull(sign: int, steps: int) -> None:
        for _ in range(steps):
            optimiser.zero_grad()
            (sign * kappa().log()).backward()
            optimiser.step()

    pull(direction, 400)
    assert float(kappa().detach()) == pytest.approx(bound, rel=1e-5)
    pull(-direction, 40)
    assert abs(math.log(float(kappa().detach()) / bound)) > 0.02 * math.log(0.5 / 0.01)


def test_a_schedule_moves_evenly_in_the_log_while_training_and_stops_at_its_end() -> None:
    kappa = Temperature(0.4, final=0.1, steps=4)
    values = [float(kappa()) for _ in range(7)]
    assert values == pytest.approx([0.4, 0.4 / 2**0.5, 0.2, 0.2 / 2**0.5, 0.1, 0.1, 0.1])


def test_a_schedule_stands_still_in_evaluation_and_goes_on_from_a_checkpoint() -> None:
    kappa = Temperature(0.4, final=0.1, steps=4)
    kappa(), kappa()
    again = Temperature(0.4, final=0.1, steps=4).eval()
    again.load_state_dict(kappa.state_dict())
    assert [float(again()), float(again())] == pytest.approx([0.2, 0.2])


def test_values_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="bounds of a learnt"):
        Temperature(0.6, learnt=True)
    with pytest.raises(ValueError, match="two increasing positive"):
        Temperature(0.1, bounds=(0.5, 0.1))
    with pytest.raises(ValueError, match=r"positive.*got -1"):
        Temperature(-1)
    with pytest.raises(ValueError, match="omit `final`"):
        Temperature(0.1, learnt=True, final=0.05, steps=10)
