"""The cost of an encoder by formula, beside the tensors that torch keeps and the operations that it counts."""

import gc
from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tactile_align.config.features import EncoderConfig
from tactile_align.errors import InputError
from tactile_align.features.cost import cost_of
from tactile_align.features.encoder import Encoder, encoder_of
from tests.features.making import noise

OPTIONS: list[dict[str, Any]] = [
    {"model": "ViT-demo"},
    {"model": "ViT-demo", "tune": "last", "last_blocks": 1},
    {"model": "timm/test_vit", "image_size": (96, 64)},
    {"model": "timm/test_vit", "image_size": (96, 64), "layers": (1, 3), "tune": "last", "last_blocks": 2},
    {"model": "timm/test_vit", "image_size": (96, 64), "tune": "frozen"},
]


def encoder(**options: Any) -> Encoder:
    torch.manual_seed(0)
    return encoder_of(EncoderConfig(pretrained="scratch", **options))


def kept_bytes(tower: Encoder, images: int, low: bool) -> int:
    """Return the bytes of all tensors that torch saves for the backward pass, weights and their casts left out."""
    own = {p.untyped_storage().data_ptr() for p in (*tower.parameters(), *tower.buffers())}
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor  # kept alive, so that no address is used twice
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
        tower.tokens(noise(images, *tower.input_size))
    return sum(t.untyped_storage().nbytes() for address, t in saved.items() if address not in own)


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
def test_the_memory_of_an_image_is_that_of_the_tensors_that_torch_keeps(options: dict[str, Any], low: bool) -> None:
    tower = encoder(**options)
    measured = (kept_bytes(tower, 4, low) - kept_bytes(tower, 2, low)) / 2
    formula = cost_of(tower, "bfloat16" if low else "float32").image_bytes
    # On a CPU, open_clip's norms get bfloat16 too, which the formula for a GPU counts as float32.
    most = 1.2 if low and options["model"] == "ViT-demo" else 1.01
    assert 0.97 * measured <= formula <= most * measured


@pytest.mark.parametrize("options", OPTIONS)
def test_the_operations_of_an_image_are_those_that_torch_counts(options: dict[str, Any]) -> None:
    tower = encoder(**options)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        tokens = tower.tokens(noise(2, *tower.input_size))
        if tokens.requires_grad:
            tokens.sum().backward()
    assert cost_of(tower).image_flops == pytest.approx(counter.get_total_flops() / 2, rel=0.02)


def test_checkpointing_keeps_the_input_of_each_block_and_recomputes_one_block() -> None:
    size = {"model": "timm/test_vit", "image_size": (96, 64)}
    plain, saving = encoder(**size), encoder(**size, checkpointing=True)
    gc.collect()
    before = {id(x) for x in gc.get_objects() if type(x) is Tensor}
    tokens = saving.tokens(noise(8, *saving.input_size))
    made = [x for x in gc.get_objects() if type(x) is Tensor and id(x) not in before]
    addresses = {x.untyped_storage().data_ptr() for x in made if x.shape == (8, 25, 64)}
    assert len(addresses) == 7 and tokens.requires_grad, "the inputs of six blocks and of the final norm"
    one_block = (cost_of(plain).image_bytes - cost_of(encoder(**size, layers=(4,))).image_bytes) / 25
    assert cost_of(saving).image_bytes == cost_of(plain).image_bytes - 25 * (5 * one_block - 6 * 4 * 64)
    assert cost_of(saving).image_flops > cost_of(plain).image_flops


def test_the_fixed_memory_is_that_of_weights_gradients_and_adamw() -> None:
    tower = encoder(model="ViT-demo")
    optimiser = torch.optim.AdamW([p for p in tower.parameters() if p.requires_grad])
    tower.tokens(noise(1, 96, 96)).sum().backward()
    optimiser.step()
    state = [value for entry in optimiser.state.values() for value in entry.values() if value.ndim]
    everything = [*tower.parameters(), *(p.grad for p in tower.parameters() if p.grad is not None), *state]
    assert cost_of(tower).fixed_bytes == pytest.approx(sum(t.nbytes for t in everything), rel=0.01)
    assert cost_of(tower).text(64).startswith("0.13")


def test_a_network_without_blocks_is_sent_to_the_measurement() -> None:
    for options in ({"model": "timm/test_convnext"}, {"model": "ViT-demo", "stem": "conv"}):
        with pytest.raises(InputError, match=rf"for vision transformers .*; got {options['model']}.*largest-batch"):
            cost_of(encoder(**options))


@pytest.mark.parametrize("gated", [False, True])
def test_blocks_of_another_form_are_sent_to_the_measurement(gated: bool) -> None:
    tower = encoder(model="timm/test_vit" if gated else "timm/test_vit4", tune="frozen")
    if gated:
        tower.visual.trunk.blocks[0].mlp = timm.layers.SwiGLU(64, 256)
    with pytest.raises(InputError, match=r"of plain blocks .*; got timm/test_vit.*largest-batch"):
        cost_of(tower)
