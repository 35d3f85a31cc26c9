"""The codebook of a pretraining: one update per optimiser step, refreshes, read-outs, and FSQ."""

import pytest
import torch

from tactile_align.config.pretrain import CodebookConfig
from tactile_align.losses.codebook import Codebook, usage


def codebook(**options: object) -> Codebook:
    torch.manual_seed(0)
    return Codebook(6, CodebookConfig.model_validate({"size": 8, "dim": 4, **options})).train()


def tokens(rows: int = 40, seed: int = 1) -> torch.Tensor:
    return torch.randn(2, rows, 2, 3, 6, generator=torch.Generator().manual_seed(seed))


def test_codes_move_once_per_optimiser_step_by_the_average_over_all_micro_batches() -> None:
    whole, split = codebook(decay=0.9), codebook(decay=0.9)
    whole(tokens())  # k-means initialises the codes
    split.load_state_dict(whole.state_dict())
    whole._seen.clear()
    first, second = tokens(seed=2), tokens(seed=3)
    before = whole.net._codebook.embed.clone()
    _, _, index = whole(torch.cat([first, second], dim=1))
    for part in (first, second):
        split(part)
    assert torch.equal(whole.net._codebook.embed, before)  # nothing moves within a step
    whole.stepped(), split.stepped()
    after = whole.net._codebook
    assert torch.allclose(after.embed, split.net._codebook.embed, atol=1e-6) and not torch.equal(after.embed, before)
    counts = torch.bincount(index.flatten(), minlength=8).float()
    assert after.cluster_size.sum() == pytest.approx(0.9 * 480 + 0.1 * float(counts.sum()), rel=1e-4)
    again = after.embed.clone()
    whole.stepped()
    assert torch.equal(after.embed, again)  # without new tokens nothing moves


def test_the_gradient_passes_straight_through_and_eval_mode_changes_nothing() -> None:
    net = codebook()
    x = tokens().requires_grad_()
    quantised, commitment, index = net(x)
    assert quantised.shape == x.shape and index.shape == x.shape[:-1] and int(index.max()) < 8
    (slope,) = torch.autograd.grad(quantised.sum() + commitment, x)
    assert float(slope.abs().sum()) > 0 and float(commitment.detach()) > 0
    net.stepped()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    net.eval()(tokens(seed=4))
    net.stepped()
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_codes_are_not_initialised_by_validation() -> None:
    net = codebook().eval()
    x = tokens()
    quantised, commitment, _ = net(x)
    assert not net.ready and torch.equal(quantised, x) and float(commitment) == 0
    net.train()(x)
    assert net.ready


def test_a_refresh_replaces_rare_codes_only_at_its_steps() -> None:
    # All of the 8 codes have less than 7.9 even shares (99 % of the tokens), so a refresh replaces all of them.
    net = codebook(refresh_every=2, refresh_below=7.9, decay=0.999)
    moved = []
    for seed in range(1, 5):
        net(tokens(seed=seed))
        before = net.net._codebook.embed.clone()
        net.stepped()
        moved.append(float((net.net._codebook.embed - before).norm(dim=-1).median()))
    assert max(moved[0], moved[2]) < 0.05 < 0.2 < min(moved[1], moved[3]), moved


def test_a_refresh_at_defaults_replaces_only_codes_far_below_an_even_share() -> None:
    net = codebook(size=256, refresh_every=1, decay=0.9999)
    net(tokens())
    codes = net.net._codebook
    codes.cluster_size.fill_(100.0)
    codes.cluster_size[0, :3] = torch.tensor([2.0, 5.0, 30.0])
    before = codes.embed.clone()
    net.stepped()
    assert torch.nonzero((codes.embed - before).norm(dim=-1)[0] > 0.01).flatten().tolist() == [0, 1]


def test_usage_of_codes_is_counted() -> None:
    even, one = usage(torch.tensor([5, 5, 5, 5])), usage(torch.tensor([0, 20, 0, 0]))
    assert even == {"usage": 1.0, "perplexity": pytest.approx(1.0), "dead_codes": 0.0}
    assert one == {"usage": 0.25, "perplexity": pytest.approx(0.25), "dead_codes": 3.0}


def test_fsq_rounds_to_its_levels_and_has_no_loss() -> None:
    net = codebook(kind="fsq", levels=[3, 4])
    x = tokens().requires_grad_()
    quantised, commitment, index = net(x)
    assert net.size == 12 and net.ready and int(index.max()) < 12 and float(commitment) == 0
    assert len(torch.unique(quantised.detach().flatten(0, -2), dim=0)) <= 12
    (slope,) = torch.autograd.grad(quantised.sum(), x)
    assert float(slope.abs().sum()) > 0
    net.stepped()


def test_a_learnt_codebook_gets_a_gradient() -> None:
    net = codebook(learn=True)
    quantised, commitment, _ = net(tokens())
    (quantised.sum() + commitment).backward()
    codes = dict(net.named_parameters())["net._codebook.embed"]
    assert codes.grad is not None and float(codes.grad.abs().sum()) > 0
