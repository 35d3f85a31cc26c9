"""The HSA loss against its formula, its gradients, and what it refuses."""

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tactile_align.losses.hsa import HSALoss, HSAStats, Keys, LossOptions, hsa_loss
from tactile_align.losses.negatives import Facts, Negatives
from tests.losses.hsa_reference import reference

OPTIONS = list(itertools.product(("mean", "sum", "none"), ("replace", "add"), (False, True), (False, True)))


def features(batch: int, dim: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    h_tau, h_w = (torch.randn(batch, dim, generator=generator, dtype=dtype) * 3 for _ in range(2))
    return h_tau, h_w


def keys_of(batch: int, past: int, dim: int = 5, seed: int = 1) -> Keys:
    """Return what a copy of the model made of a batch and of past batches."""
    generator = torch.Generator().manual_seed(seed)
    rows = (batch, batch, past, past)
    return Keys(*(torch.randn(n, dim, generator=generator, dtype=torch.float64) for n in rows))


def rule_and_mask(rng: np.random.Generator, batch: int, past: int) -> tuple[Negatives, np.ndarray]:
    """Return a rule over random facts and, pair by pair, the (batch, batch + past) mask it stands for.

    The first two rows are negatives of every row in contact: moments of their own episodes that feel like no other.
    """
    every = batch + past
    episode, time, kind = (rng.integers(0, below, every) for below in (2, 12, 3))
    contact = rng.random(every) < 0.8
    contact[batch:] = True
    episode[:2], contact[:2] = (90, 91), True
    index = np.where(contact, rng.integers(0, 2, every), -1)
    touch = np.eye(5)[kind]
    touch[kind == 2] = (0.6, 0.8, 0, 0, 0)  # cosines 0.6 and 0.8 with the others
    touch[0], touch[1] = np.eye(5)[3:]
    gap = int(rng.integers(0, 6))
    mask = np.zeros((batch, every))
    for i, j in itertools.product(range(batch), range(every)):
        apart = abs(int(time[i]) - int(time[j]))
        near = episode[i] == episode[j] and (apart < gap or apart == 0)
        alike = float(touch[i] @ touch[j]) > 0.7
        one_contact = episode[i] == episode[j] and index[i] == index[j] >= 0
        mask[i, j] = i != j and not near and not alike and not one_contact and contact[i] and contact[j]
    own, more = (
        Facts(*(torch.from_numpy(fact[part]) for fact in (episode, time, contact, touch, index)))
        for part in (slice(batch), slice(batch, None))
    )
    rule = Negatives(own.episode, own.time, gap, own.contact, own.touch, 0.7, more if past else None, own.contact_index)
    return rule, mask


@settings(max_examples=300, deadline=None)
@given(
    option=st.sampled_from(OPTIONS),
    batch=st.integers(2, 7),
    seed=st.integers(0, 10_000),
    masked=st.sampled_from(("none", "bool", "float", "rule")),
    rows_left_out=st.integers(0, 3),
    temperature=st.floats(0.03, 2.0),
    hardness=st.sampled_from((0.0, 0.5, 1.0)),
    hardest=st.sampled_from((None, 1, 2, 50)),
    past=st.sampled_from((0, 0, 4)),
    some_missing=st.booleans(),
    chunk=st.sampled_from((None, None, 1, 3)),
)
def test_the_loss_is_its_formula_for_every_combination_of_options(
    option: tuple[str, str, bool, bool],
    batch: int,
    seed: int,
    masked: str,
    rows_left_out: int,
    temperature: float,
    hardness: float,
    hardest: int | None,
    past: int,
    some_missing: bool,
    chunk: int | None,
) -> None:
    reduction, explicit, symmetric, with_hard = option
    rng = np.random.default_rng(seed)
    h_tau, h_w = rng.normal(size=(2, batch, 5)) * 2
    hard = rng.normal(size=(batch, 3, 5)) if with_hard else None
    exists = None
    if hard is not None and some_missing:
        exists = rng.random((batch, 3)) < 0.5
        exists[:, 0] |= explicit == "replace"  # else a row would have no negative at all
        hard[~exists] = np.nan
    with_keys = past and symmetric and (hard is None or explicit == "add")
    keys = tuple(rng.normal(size=(n, 5)) for n in (batch, batch, past, past)) if with_keys else None
    columns = batch + (past if keys is not None else 0)
    negative, rule = None, None
    valid = np.ones(batch, dtype=bool)
    valid[2 : 2 + rows_left_out] = False
    if masked == "rule":
        rule, negative = rule_and_mask(rng, batch, columns - batch)
        assert rule.contact is not None
        valid &= rule.contact.numpy()  # as in training: a row without contact has no negative
    elif masked != "none":
        weights = rng.uniform(0.1, 3.0, size=(batch, columns)) if masked == "float" else np.ones((batch, columns))
        negative = np.where(rng.random((batch, columns)) < 0.8, weights, 0.0)
        # Each row and column keeps one negative among the first two rows, which always stay valid.
        negative[:, 0] = negative[0, :] = negative[1, :] = negative[:, 1] = 1.0
    want, want_stats = reference(
        h_tau,
        h_w,
        hard,
        negative,
        temperature=temperature,
        reduction=reduction,
        explicit=explicit,
        symmetric=symmetric,
        valid=valid,
        keys=keys,
        hard_valid=exists,
        hardness=hardness,
        hardest=hardest,
    )
    options = LossOptions(symmetric, hardness, hardest, chunk)
    loss = HSALoss(temperature, reduction, explicit, options)  # type: ignore[arg-type]
    given_negative = None if negative is None else torch.from_numpy(negative > 0 if masked == "bool" else negative)
    got, stats = loss(
        torch.from_numpy(h_tau),
        torch.from_numpy(h_w),
        None if hard is None else torch.from_numpy(hard),
        given_negative if rule is None else rule,
        valid=torch.from_numpy(valid),
        stats=True,
        keys=None if keys is None else Keys(*map(torch.from_numpy, keys)),
        hard_valid=None if exists is None else torch.from_numpy(exists),
    )
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-10, atol=1e-10)
    for name, value in want_stats.items():
        assert float(getattr(stats, name)) == pytest.approx(value)


GRADIENTS = [
    (explicit, symmetric, hardness, hardest, reduction, chunk, some_missing)
    for explicit, symmetric, (hardness, hardest), (reduction, chunk), some_missing in itertools.product(
        ("replace", "add"),
        (False, True),
        ((0.0, None), (0.7, None), (0.7, 2)),
        (("mean", None), ("mean", 2), ("none", 2)),
        (False, True),
    )
]
GRADIENT_OPTIONS = ("explicit", "symmetric", "hardness", "hardest", "reduction", "chunk", "some_missing")


# Every fifth of the 72 holds each value of each option; `tests.benchmarks.sweeps` checks all of them.
@pytest.mark.parametrize(GRADIENT_OPTIONS, GRADIENTS[::5])
def test_gradients_agree_with_finite_differences(
    explicit: str,
    symmetric: bool,
    hardness: float,
    hardest: int | None,
    reduction: str,
    chunk: int | None,
    some_missing: bool,
) -> None:
    h_tau, h_w = features(5)
    hard = torch.randn(5, 2, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    valid = torch.tensor([True, True, False, True, True])
    exists = torch.tensor([[True, False], [True, True], [False, True], [False, True], [True, False]])
    kappa = torch.tensor(0.3, dtype=torch.float64)
    inputs = tuple(x.requires_grad_() for x in (h_tau, h_w, hard, kappa))

    def loss(tau: Tensor, w: Tensor, negatives: Tensor, temperature: Tensor) -> Tensor:
        found = hsa_loss(
            tau,
            w,
            negatives,
            temperature=temperature,
            reduction=reduction,  # type: ignore[arg-type]
            explicit=explicit,  # type: ignore[arg-type]
            options=LossOptions(symmetric, hardness, hardest, chunk),
            valid=valid,
            hard_valid=exists if some_missing else None,
        )
        assert isinstance(found, Tensor)
        return found

    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize(
    "options",
    [
        LossOptions(),
        LossOptions(symmetric=True, chunk=2),
        LossOptions(symmetric=True, hardness=0.7, hardest=2),
        LossOptions(hardness=0.7, chunk=2),
    ],
)
@pytest.mark.parametrize("masked", ["bool", "float", "rule"])
@pytest.mark.parametrize("past", [0, 3])
def test_gradients_under_masks_rules_and_a_bank_agree_with_finite_differences(
    options: LossOptions, masked: str, past: int
) -> None:
    if past and not options.symmetric:
        options = replace(options, symmetric=True)
    h_tau, h_w = features(5, 3)
    rng = np.random.default_rng(13)
    rule, mask = rule_and_mask(rng, 5, past)
    assert rule.contact is not None and mask.sum() < 4 * (3 + past)  # of four in contact, some are taken away
    weights = torch.from_numpy(mask * rng.uniform(0.2, 2, mask.shape))
    negative = {"bool": torch.from_numpy(mask > 0), "float": weights, "rule": rule}[masked]
    keys = keys_of(5, past, 3) if past else None
    kappa = torch.tensor(0.3, dtype=torch.float64)
    inputs = tuple(x.requires_grad_() for x in (h_tau, h_w, kappa))

    def loss(tau: Tensor, w: Tensor, temperature: Tensor) -> Tensor:
        found = hsa_loss(
            tau,
            w,
            negative=negative,  # type: ignore[arg-type]
            temperature=temperature,
            options=options,
            valid=rule.contact,
            keys=keys,
        )
        assert isinstance(found, Tensor)
        return found

    assert torch.autograd.gradcheck(loss, inputs)


def test_keys_and_their_hard_negatives_take_no_gradient_and_both_queries_take_one() -> None:
    h_tau, h_w, hard = (x.requires_grad_() for x in (*features(6), torch.randn(6, 2, 5, dtype=torch.float64)))
    keys = Keys(*(x.requires_grad_() for x in keys_of(6, 4)))
    loss = hsa_loss(h_tau, h_w, hard, keys=keys, explicit="add", options=LossOptions(symmetric=True))
    assert isinstance(loss, Tensor)
    loss.backward()
    assert all(x.grad is None for x in (*keys, hard))
    assert all(x.grad is not None and bool((x.grad != 0).any(dim=1).all()) for x in (h_tau, h_w))


def test_hardness_leaves_uniform_logits_alone() -> None:
    same = torch.ones(6, 4)
    keys = Keys(same, same, same[:3], same[:3])
    hard = hsa_loss(same, same, keys=keys, options=LossOptions(symmetric=True, hardness=1.0))
    assert float(hard) == pytest.approx(math.log(9))
    assert float(hsa_loss(same, same, options=LossOptions(hardest=2))) == pytest.approx(math.log(3))


def test_explicit_negatives_that_do_not_exist_are_as_if_never_given() -> None:
    h_tau, h_w = features(4)
    hard = torch.randn(4, 3, 5, dtype=torch.float64)
    exists = torch.zeros(4, 3, dtype=torch.bool)
    exists[1, 2] = True
    for weighting in (LossOptions(), LossOptions(hardness=0.5, hardest=2)):
        options = {"explicit": "add", "options": weighting, "reduction": "none"}
        got = hsa_loss(h_tau, h_w, hard, hard_valid=exists, **options)  # type: ignore[arg-type]
        without = hsa_loss(h_tau, h_w, **options)  # type: ignore[arg-type]
        one = hsa_loss(h_tau, h_w, hard[:, 2:], **options)  # type: ignore[arg-type]
        assert isinstance(got, Tensor) and isinstance(without, Tensor) and isinstance(one, Tensor)
        torch.testing.assert_close(got, torch.stack([without[0], one[1], without[2], without[3]]))
    with pytest.raises(ValueError, match=r"pairs \[0, 2, 3\].*no negative"):
        hsa_loss(h_tau, h_w, hard, hard_valid=exists)


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"hardness must be at least 0; got -1"):
        LossOptions(hardness=-1)
    with pytest.raises(ValueError, match=r"hardest, .*must be at least 1"):
        LossOptions(hardest=0)
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        LossOptions(chunk=0)
    h = torch.ones(4, 5)
    keys, both = Keys(h, h, h[:3], h[:3]), LossOptions(symmetric=True)
    with pytest.raises(ValueError, match=r"hard_negatives and keys.*explicit='add'"):
        hsa_loss(h, h, torch.ones(4, 2, 5), keys=keys, options=both)
    with pytest.raises(ValueError, match=r"symmetric is False.*h_w would get none.*omit keys"):
        hsa_loss(h, h, keys=keys)
    with pytest.raises(ValueError, match=r"hard_valid must be a bool .*\(4, 2\); got torch.bool of shape \(4, 3\)"):
        hsa_loss(h, h, torch.ones(4, 2, 5), hard_valid=torch.ones(4, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"hard_valid was given without hard_negatives"):
        hsa_loss(h, h, hard_valid=torch.ones(4, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"keys.past_touches must have shape \(3, 5\); got \(3, 4\)"):
        hsa_loss(h, h, keys=keys._replace(past_touches=torch.ones(3, 4)), options=both)
    with pytest.raises(ValueError, match=r"negative must have shape \(4, 7\); got \(4, 4\)"):
        hsa_loss(h, h, negative=torch.ones(4, 4), keys=keys, options=both)


def test_features_that_are_all_alike_give_the_log_of_one_plus_their_negatives() -> None:
    same = torch.ones(6, 4)
    negative = torch.ones(6, 6, dtype=torch.bool)
    negative[0, 3:] = False
    loss, stats = hsa_loss(same, same, negative=negative, reduction="none", stats=True)
    want = torch.tensor([math.log(3)] + [math.log(6)] * 5)
    torch.testing.assert_close(loss, want)
    torch.testing.assert_close(stats.chance, want.mean())
    alone = hsa_loss(same, same, torch.ones(6, 9, 4))
    assert float(alone) == pytest.approx(math.log(10))


def test_chance_is_the_mean_of_both_directions() -> None:
    same, hard = torch.ones(16, 4), torch.ones(16, 8, 4)
    loss, stats = hsa_loss(same, same, hard, explicit="add", options=LossOptions(symmetric=True), stats=True)
    want = (math.log(16 + 8) + math.log(16)) / 2
    assert float(loss) == pytest.approx(want) and float(stats.chance) == pytest.approx(want)


def test_the_bank_has_its_share_of_the_denominator_unless_it_is_told_by_its_age() -> None:
    same, away = torch.ones(6, 4), -torch.ones(10, 4)
    both = LossOptions(symmetric=True)
    alike, apart = (
        hsa_loss(same, same, keys=Keys(same, same, past, past), options=both, stats=True)[1] for past in (-away, away)
    )
    assert float(alike.bank_share) == pytest.approx(10 / 16, rel=1e-5)
    assert float(apart.bank_share) < 1e-9


@pytest.mark.parametrize("side", [0, 1])
def test_a_feature_of_zero_gets_a_gradient_like_any_other(side: int) -> None:
    h = [x / x.norm(dim=1, keepdim=True) for x in features(8, dtype=torch.float32)]
    h[side][3] = 0.0
    tau, w = (x.requires_grad_() for x in h)
    loss = hsa_loss(tau, w)
    assert isinstance(loss, Tensor)
    loss.backward()
    sizes = h[side].grad.norm(dim=1)  # type: ignore[union-attr]
    assert 0 < float(sizes[3]) < 10 * float(sizes[torch.arange(8) != 3].max())


FORMS = [
    {"options": LossOptions(symmetric, hardness, hardest, chunk), "temperature": 0.1, "explicit": "add"}
    for symmetric in (True, False)
    for hardness, hardest in ((0.0, None), (0.7, None), (0.0, 3), (0.7, 3))
    for chunk in (None, 2)
]


def with_keys(options: dict[str, Any], batch: int, past: int) -> tuple[dict[str, Any], Keys | None]:
    """Return the options and the keys of a batch; keys need a symmetric loss."""
    if not past:
        return options, None
    return {**options, "options": replace(options["options"], symmetric=True)}, keys_of(batch, past)


@pytest.mark.parametrize("options", FORMS, ids=str)
@pytest.mark.parametrize("masked", ["float", "rule"])
@pytest.mark.parametrize("past", [0, 4])
def test_the_order_of_the_batch_changes_nothing(options: dict[str, Any], masked: str, past: int) -> None:
    h_tau, h_w = features(9)
    hard = torch.randn(9, 2, 5, dtype=torch.float64)
    options, keys = with_keys(options, 9, past)
    rule, _ = rule_and_mask(np.random.default_rng(3), 9, past)
    weights = torch.rand(9, 9 + past, dtype=torch.float64) + 0.1
    valid = torch.arange(9) % 4 != 1
    assert rule.contact is not None and rule.touch is not None
    valid &= rule.contact
    order = torch.randperm(9)
    columns = torch.cat([order, torch.arange(9, 9 + past)])
    facts = ("episode", "time", "contact", "touch", "contact_index")
    reordered = replace(rule, **{name: getattr(rule, name)[order] for name in facts})
    before, after = (rule, reordered) if masked == "rule" else (weights, weights[order][:, columns])
    straight = hsa_loss(h_tau, h_w, hard, before, valid=valid, keys=keys, **options)
    if keys is not None:
        keys = keys._replace(touches=keys.touches[order], regions=keys.regions[order])
    shuffled = hsa_loss(h_tau[order], h_w[order], hard[order], after, valid=valid[order], keys=keys, **options)
    torch.testing.assert_close(straight, shuffled)


@pytest.mark.parametrize("options", FORMS, ids=str)
@pytest.mark.parametrize("masked", ["none", "float", "rule"])
@pytest.mark.parametrize("past", [0, 4])
def test_rows_that_are_not_valid_give_and_receive_nothing_whatever_they_hold(
    options: dict[str, Any], masked: str, past: int
) -> None:
    torch.manual_seed(7)
    h_tau, h_w = features(6)
    hard = torch.randn(6, 2, 5, dtype=torch.float64)
    options, keys = with_keys(options, 6, past)
    valid = torch.tensor([True, True, False, True, False, True])
    rule, mask = rule_and_mask(np.random.default_rng(3), 6, past)
    assert rule.contact is not None and bool(rule.contact[valid].all())
    negative: Tensor | Negatives | None = {"none": None, "float": torch.rand(6, 6 + past) + 0.1, "rule": rule}[masked]
    left = torch.cat([valid.nonzero().flatten(), torch.arange(6, 6 + past)])
    among = torch.from_numpy(mask > 0) if masked == "rule" else negative
    kept = None if among is None else among[valid][:, left]  # type: ignore[index]
    spoilt = [x.clone() for x in (h_tau, h_w, hard)]
    for x in spoilt:
        x[~valid] = torch.nan
        x.requires_grad_()
    spoilt_keys = None if keys is None else keys._replace(regions=keys.regions.clone())
    if spoilt_keys is not None:
        spoilt_keys.regions[~valid] = torch.nan
    loss = hsa_loss(*spoilt, negative, valid=valid, keys=spoilt_keys, **options)
    loss.backward()
    if keys is not None:
        keys = keys._replace(touches=keys.touches[valid], regions=keys.regions[valid])
    alone = hsa_loss(h_tau[valid], h_w[valid], hard[valid], kept, keys=keys, **options)
    torch.testing.assert_close(loss.detach(), alone)
    assert keys is None or spoilt[2].grad is None, "with keys, hard negatives are keys too"
    for x in spoilt if keys is None else spoilt[:2]:
        assert x.grad is not None
        assert torch.equal(x.grad[~valid], torch.zeros_like(x.grad[~valid]))
        if x is not spoilt[2] or options["options"].hardest is None:  # few chosen negatives may all be in the batch
            assert bool((x.grad[valid] != 0).any())


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_batch_without_any_valid_row_is_a_zero_that_still_hangs_on_the_graph(reduction: str) -> None:
    h_tau, h_w = (x.requires_grad_() for x in features(4))
    nobody = torch.zeros(4, dtype=torch.bool)
    loss, stats = hsa_loss(h_tau, h_w, valid=nobody, reduction=reduction, stats=True)  # type: ignore[arg-type]
    loss.sum().backward()
    assert float(loss.detach().sum()) == 0 and float(stats.pairs) == 0 and float(stats.chance) == 0
    assert h_tau.grad is not None and float(h_tau.grad.abs().sum()) == 0


def test_a_valid_row_without_negatives_is_named() -> None:
    h_tau, h_w = features(4)
    negative = torch.ones(4, 4, dtype=torch.bool)
    negative[2] = False
    with pytest.raises(ValueError, match=r"pairs \[2\].*no negative.*more episodes"):
        hsa_loss(h_tau, h_w, negative=negative)
    with pytest.raises(ValueError, match=r"pairs \[0\]"):
        hsa_loss(h_tau[:1], h_w[:1])


def test_a_sum_over_spans_refuses_to_be_differentiated_twice() -> None:
    h_tau, h_w = (x.requires_grad_() for x in features(6))
    loss = hsa_loss(h_tau, h_w, options=LossOptions(chunk=2))
    assert isinstance(loss, Tensor)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, h_tau, create_graph=True)


def test_only_the_direction_of_a_feature_counts() -> None:
    h_tau, h_w = features(6)
    torch.testing.assert_close(hsa_loss(h_tau, h_w), hsa_loss(h_tau * 1e-3, h_w * 1e4))


def test_similarities_stay_float32_under_autocast() -> None:
    h_tau, h_w = features(32, 64, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = hsa_loss(h_tau, h_w, options=LossOptions(symmetric=True))
    assert isinstance(inside, Tensor) and inside.dtype == torch.float32
    assert torch.equal(inside, hsa_loss(h_tau, h_w, options=LossOptions(symmetric=True)))


def test_half_precision_features_are_compared_in_float32() -> None:
    h_tau, h_w = (x.bfloat16() for x in features(16, 32))
    torch.testing.assert_close(hsa_loss(h_tau, h_w), hsa_loss(h_tau.float(), h_w.float()))


def test_statistics_leave_the_value_alone() -> None:
    h_tau, h_w = features(6)
    value, stats = hsa_loss(h_tau, h_w, stats=True)
    assert isinstance(stats, HSAStats)
    assert torch.equal(value, hsa_loss(h_tau, h_w))
    assert float(stats.pairs) == 6 and float(stats.negatives) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"h_w": torch.ones(3, 5)}, r"\(4, 5\) and \(3, 5\)"),
        ({"hard_negatives": torch.ones(4, 5)}, r"\(4, N, 5\).*got \(4, 5\)"),
        ({"hard_negatives": torch.ones(4, 0, 5)}, r"got \(4, 0, 5\)"),
        ({"negative": torch.ones(4, 3)}, r"negative must have shape.*got \(4, 3\)"),
        ({"valid": torch.ones(4)}, r"valid must be a bool.*float32"),
        ({"temperature": 0.0}, r"temperature must be positive; got 0\.0"),
        ({"temperature": float("nan")}, r"temperature must be positive; got nan"),
        ({"temperature": torch.tensor(0.0)}, r"temperature must be positive; got 0\.0"),
        ({"temperature": torch.tensor(-0.07)}, r"temperature must be positive; got -0\.07"),
        ({"reduction": "max"}, "reduction must be one of mean, sum, none; got 'max'"),
        ({"explicit": "both"}, "explicit must be one of replace, add; got 'both'"),
    ],
)
def test_what_does_not_pair_is_refused_with_both_shapes(arguments: dict[str, object], message: str) -> None:
    given = {"h_tau": torch.ones(4, 5), "h_w": torch.ones(4, 5), **arguments}
    with pytest.raises(ValueError, match=message):
        hsa_loss(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"reduction": "max"}, "mean, sum, none; got 'max'"), ({"explicit": "both"}, "replace, add; got 'both'")],
)
def test_unknown_options_are_refused_with_the_known_ones(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HSALoss(**arguments)  # type: ignore[arg-type]
