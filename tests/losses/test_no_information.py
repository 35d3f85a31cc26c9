"""Pairs without information: whatever the options, the loss is that of chance, and no training gets below it."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from tactile_align.losses.bank import Following, MemoryBank
from tactile_align.losses.hsa import Explicit, HSAStats, Keys, LossOptions, hsa_loss
from tactile_align.losses.negatives import Facts, Negatives
from tactile_align.losses.temperature import Temperature


class Case(NamedTuple):
    """Options of the loss; `kappa` is the mode of the temperature, `regions` the number of explicit negatives."""

    symmetric: bool
    explicit: Explicit
    bank: int
    regions: int
    hardness: float
    hardest: int | None
    ceiling: float | None
    kappa: str

    @property
    def allowed(self) -> bool:
        """Whether the options go together: a bank needs both directions and the negatives of the batch."""
        return not self.bank or (self.symmetric and not (self.regions and self.explicit == "replace"))


EVERY = {
    "symmetric": (False, True),
    "explicit": ("replace", "add"),
    "bank": (0, 512),
    "regions": (0, 3),
    "hardness": (0.0, 0.7),
    "hardest": (None, 8),
    "ceiling": (None, 0.4),
    "kappa": ("fixed", "learnt", "scheduled"),
}
CASES = [case for values in itertools.product(*EVERY.values()) if (case := Case(*values)).allowed]

TRAINED = [
    Case(False, "replace", 0, 0, 0.7, 8, 0.4, "scheduled"),
    Case(True, "add", 512, 3, 0.0, None, None, "scheduled"),
    Case(True, "replace", 0, 3, 0.7, 8, None, "fixed"),
    Case(False, "add", 0, 0, 0.0, None, 0.4, "learnt"),
    Case(True, "add", 512, 0, 0.7, 8, None, "learnt"),
    Case(True, "replace", 512, 0, 0.0, None, 0.4, "fixed"),
    Case(False, "add", 0, 3, 0.7, None, 0.4, "fixed"),
    Case(False, "replace", 0, 3, 0.0, 8, None, "learnt"),
    Case(True, "add", 0, 0, 0.0, None, None, "fixed"),
    Case(True, "add", 512, 0, 0.0, None, None, "fixed"),
    Case(True, "add", 512, 3, 0.0, 8, 0.4, "fixed"),
    Case(True, "add", 512, 3, 0.7, None, 0.4, "learnt"),
]
"""Cases that are trained. Each two values of two options that are allowed together occur in one of them."""

MOMENTS, BATCH, SIZE, DIM, STEPS = 1024, 128, 32, 16, 200


def pairs(case: Case) -> Iterator[tuple[tuple[str, object], ...]]:
    yield from itertools.combinations(zip(EVERY, case, strict=True), 2)


def temperature_of(mode: str) -> Temperature:
    if mode == "scheduled":
        return Temperature(0.2, final=0.07, steps=STEPS)
    return Temperature(0.07, learnt=mode == "learnt")


def rule_of(facts: Facts, gap: int, ceiling: float | None, bank: Facts | None) -> Negatives:
    index = facts.contact_index
    return Negatives(facts.episode, facts.time, gap, None, facts.touch, ceiling, bank, contact_index=index)


def test_the_trained_cases_hold_every_two_values_that_are_allowed_together() -> None:
    assert {pair for case in CASES for pair in pairs(case)} == {pair for case in TRAINED for pair in pairs(case)}


def test_features_that_are_all_alike_have_the_loss_of_chance_whatever_the_options() -> None:
    torch.manual_seed(0)
    batch, some = 9, torch.arange(9) != 4
    touch, region = torch.randn(2, DIM, dtype=torch.float64)
    facts = Facts(torch.arange(batch) // 3, torch.arange(batch), touch=torch.randn(batch, 6), contact_index=some.long())
    for case in CASES:
        episode, time, index = torch.randint(0, 9, (3, case.bank))
        bank = Facts(episode, time, touch=torch.randn(case.bank, 6), contact_index=index) if case.bank else None
        rule = rule_of(facts, 2, case.ceiling, bank)
        past_touches, past_regions = touch.expand(case.bank, DIM), region.expand(case.bank, DIM)
        touches, regions = touch.expand(batch, DIM), region.expand(batch, DIM)
        loss, stats = hsa_loss(
            touches,
            regions,
            region.expand(batch, case.regions, DIM) if case.regions else None,
            rule,
            temperature=temperature_of(case.kappa)(),
            explicit=case.explicit,
            options=LossOptions(case.symmetric, case.hardness, case.hardest),
            valid=some,
            stats=True,
            keys=Keys(touches, regions, past_touches, past_regions) if case.bank else None,
        )
        assert isinstance(stats, HSAStats)
        assert float(loss.detach()) == pytest.approx(float(stats.chance.detach()), rel=1e-5), case


class Heads(nn.Module):
    """Two linear heads; what they see tells nothing of each other."""

    def __init__(self) -> None:
        super().__init__()
        self.touch, self.region = (nn.Linear(SIZE, DIM) for _ in range(2))

    def forward(self, touch: Tensor, region: Tensor, others: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the features of touches, of their regions, and of other regions."""
        return self.touch(touch), self.region(region), None if others is None else self.region(others)


def ratios(case: Case) -> list[float]:
    """Return loss / chance at each step of a training on random vectors that are paired anew at each step."""
    torch.manual_seed(1)
    touches, regions = torch.randn(2, MOMENTS, SIZE)
    every = Facts(*torch.randint(0, 40, (2, MOMENTS)), touch=touches, contact_index=torch.randint(0, 3, (MOMENTS,)))
    heads, kappa = Heads(), temperature_of(case.kappa)
    copy, bank = Following(heads), MemoryBank(case.bank, DIM, SIZE) if case.bank else None
    optimiser = torch.optim.Adam([*heads.parameters(), *kappa.parameters()], 3e-2)
    found = []
    for _ in range(STEPS):
        rows = torch.randperm(MOMENTS)[:BATCH]
        permuted = rows[torch.randperm(BATCH)]
        others = regions[torch.randint(0, MOMENTS, (BATCH, case.regions))] if case.regions else None
        now = Facts(**{name: fact[permuted] for name, fact in vars(every).items() if fact is not None})
        tau, w, hard = heads(touches[permuted], regions[rows], others)
        keys, past = None, None
        if bank is not None:
            with torch.no_grad():
                key_touches, key_regions, hard = copy.module(touches[permuted], regions[rows], others)
            keys, past = Keys(key_touches, key_regions, *bank.kept()), bank.facts()
        rule = rule_of(now, 5, case.ceiling, past)
        options = LossOptions(case.symmetric, case.hardness, case.hardest)
        loss, stats = hsa_loss(
            tau, w, hard, rule, temperature=kappa(), explicit=case.explicit, options=options, stats=True, keys=keys
        )
        assert isinstance(stats, HSAStats)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if bank is not None and keys is not None:
            bank.add(keys.touches, keys.regions, now, torch.ones(BATCH, dtype=torch.bool))
            copy.follow(heads)
        found.append(float(loss.detach() / stats.chance))
    return found


@pytest.mark.parametrize("case", TRAINED, ids=str)
def test_training_on_pairs_without_information_stays_at_chance(case: Case) -> None:
    found = ratios(case)
    assert min(found[-50:]) > 0.97, found[::20]
