"""Residual adapters: what they compute and how large the original's are."""

import torch
from torch import nn

from tactile_align.config.features import AdapterConfig
from tactile_align.features.encoder import Adapter, Adapters


def test_an_adapter_adds_a_tenth_of_its_small_net_to_each_token() -> None:
    torch.manual_seed(0)
    adapter = Adapter(6, AdapterConfig(hidden=4)).eval()
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    norm, low, high = (m.double() for m in adapter.net if isinstance(m, nn.LayerNorm | nn.Linear))
    centred = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    hidden = centred @ low.weight.T + low.bias
    gelu = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    torch.testing.assert_close(adapter.double()(x), x + 0.1 * (gelu @ high.weight.T + high.bias))


def test_the_sizes_are_the_originals_and_only_training_drops() -> None:
    adapters = Adapters(768, AdapterConfig())
    assert len(adapters) == 3
    layers = [m for m in adapters.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in layers] == [(768, 512), (512, 768)] * 3
    assert {m.p for m in adapters.modules() if isinstance(m, nn.Dropout)} == {0.1}
    x = torch.randn(4, 768)
    assert not torch.equal(adapters.train()(x), adapters(x))
    assert torch.equal(adapters.eval()(x), adapters(x))
