"""Temporal ensembling against the sum it stands for."""

import math

import pytest
import torch

from tactile_align.policies.runtime import TemporalEnsembler


@pytest.mark.parametrize(("chunk", "coefficient"), [(1, 0.01), (2, 0.01), (7, 0.01), (7, 0.0), (7, -0.3)])
def test_every_action_is_the_weighted_mean_of_all_predictions_oldest_first(chunk: int, coefficient: float) -> None:
    chunks = torch.randn(20, 3, chunk, 5, dtype=torch.float64)
    ensembler = TemporalEnsembler(chunk, coefficient)
    for now in range(20):
        action = ensembler.update(chunks[now])
        said = [chunks[t][:, now - t] for t in range(max(0, now - chunk + 1), now + 1)]
        weights = [math.exp(-coefficient * i) for i in range(len(said))]
        expected = sum(w * a for w, a in zip(weights, said, strict=True)) / sum(weights)
        torch.testing.assert_close(action, expected)


def test_reset_forgets_the_episode() -> None:
    ensembler = TemporalEnsembler(4)
    first = torch.randn(4, 2)
    ensembler.update(torch.randn(4, 2))
    ensembler.reset()
    assert torch.equal(ensembler.update(first), first[0])


def test_a_prediction_of_exactly_zero_counts() -> None:
    ensembler = TemporalEnsembler(2, 0.0)
    ensembler.update(torch.zeros(2, 1))
    assert ensembler.update(torch.ones(2, 1)).item() == 0.5


def test_a_cut_chunk_or_another_batch_is_refused() -> None:
    ensembler = TemporalEnsembler(4)
    with pytest.raises(ValueError, match=r"shape \(\.\.\., 4, A\); got \(3, 2\)"):
        ensembler.update(torch.zeros(3, 2))
    ensembler.update(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="reset"):
        ensembler.update(torch.zeros(5, 4, 2))
    with pytest.raises(ValueError, match="at least 1"):
        TemporalEnsembler(0)
