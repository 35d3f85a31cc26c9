"""The memory bank and the copy that fills it."""

import pytest
import torch
from torch import nn

from tactile_align.losses.bank import Following, MemoryBank
from tactile_align.losses.hsa import Keys, LossOptions, hsa_loss
from tactile_align.losses.negatives import Facts, Negatives


def rows(start: int, count: int) -> tuple[torch.Tensor, torch.Tensor, Facts]:
    names = torch.arange(start, start + count)
    features = names[:, None].float().repeat(1, 3)
    return features + 0.5, features, Facts(names, names * 10, contact_index=names * 100)


def test_a_bank_keeps_the_newest_valid_rows_and_their_facts() -> None:
    bank = MemoryBank(5, 3)
    assert len(bank) == 0 and [h.shape for h in bank.kept()] == [(0, 3), (0, 3)]
    bank.add(*rows(0, 3), torch.tensor([True, False, True]))
    assert bank.kept()[1][:, 0].tolist() == [0, 2] and bank.facts().time.tolist() == [0, 20]
    bank.add(*rows(10, 4), torch.ones(4, dtype=torch.bool))
    touches, regions = bank.kept()
    assert sorted(regions[:, 0].tolist()) == [2, 10, 11, 12, 13] and torch.equal(touches, regions + 0.5)
    facts = bank.facts()
    assert facts.contact_index is not None and facts.contact_index.tolist() == [100 * e for e in facts.episode.tolist()]
    assert facts.episode.tolist() == regions[:, 0].tolist()
    bank.add(*rows(20, 9), torch.ones(9, dtype=torch.bool))
    assert sorted(bank.kept()[1][:, 0].tolist()) == [24, 25, 26, 27, 28]


def test_a_bank_goes_on_from_a_checkpoint() -> None:
    bank, again = MemoryBank(5, 3), MemoryBank(5, 3)
    bank.add(*rows(0, 3), torch.ones(3, dtype=torch.bool))
    again.load_state_dict(bank.state_dict())
    for one in (bank, again):
        one.add(*rows(7, 4), torch.ones(4, dtype=torch.bool))
    assert torch.equal(torch.stack(bank.kept()), torch.stack(again.kept()))


def test_the_rules_hold_for_the_bank_too() -> None:
    bank = MemoryBank(4, 6)
    past = torch.randn(2, 4, 6)
    contact = torch.tensor([0, 1, 0, 1])
    facts = Facts(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 100, 0, 100]), contact_index=contact)
    bank.add(past[0], past[1], facts, torch.ones(4, dtype=torch.bool))
    now = Facts(torch.tensor([0, 1, 2]), torch.tensor([3, 97, 0]), contact_index=torch.tensor([1, 5, -1]))
    rule = Negatives(now.episode, now.time, min_gap=10, bank=bank.facts(), contact_index=now.contact_index)
    # Row 0 is too close to the first and of the second's contact; row 1 is too close to the last.
    assert rule.rows(0, 3)[:, 3:].tolist() == [[False, False, True, True], [True, True, True, False], [True] * 4]
    h_tau, h_w, touches, regions = torch.randn(4, 3, 6)
    by_rule, by_mask = (
        hsa_loss(h_tau, h_w, None, negative, keys=Keys(touches, regions, *kept), options=LossOptions(symmetric=True))
        for negative, kept in ((rule, bank.kept()), (rule.rows(0, 3), past))
    )
    torch.testing.assert_close(by_rule, by_mask)


def test_a_following_copy_moves_by_its_momentum_and_never_learns_itself() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    copy = Following(model, momentum=0.75)
    before = [p.clone() for p in copy.parameters()]
    with torch.no_grad():
        for p in model.parameters():
            p += 1
    model(torch.randn(8, 3))
    copy.follow(model)
    for old, new in zip(before, copy.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.25)
        assert not new.requires_grad
    assert torch.equal(copy.module[1].running_mean, model[1].running_mean)  # type: ignore[index]


def test_the_copy_stays_in_eval_mode() -> None:
    copy = Following(nn.Sequential(nn.Linear(2, 2), nn.Dropout()))
    assert nn.ModuleList([copy]).train()[0] is copy and not copy.module.training
    assert not any(part.training for part in copy.module.modules())


def test_sizes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="size must be at least 1; got 0"):
        MemoryBank(0, 3)
    with pytest.raises(ValueError, match="at least 0 and below 1; got 1"):
        Following(nn.Linear(2, 2), 1.0)
