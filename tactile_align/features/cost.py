"""Memory and computation of an image encoder in a training step, estimated by a formula before the run.

The formula counts the tensors that torch keeps of a vision transformer for the backward pass. Per token of width D, one
block keeps the inputs of its layer norms (2 D numbers); the inputs of the query-key-value, output and first MLP layers
(3 D); queries, keys and values (3 D); and the MLP's hidden numbers before and after the activation (8 D if the MLP is 4
D wide). QuickGELU keeps a further copy of the hidden numbers, each layer scale D numbers. Attention keeps no matrix of
tokens times tokens. Under autocast to bfloat16, the inputs of the norms stay float32 on a GPU, and all else is halved.
"""

from dataclasses import dataclass

import open_clip
from open_clip.transformer import ResidualAttentionBlock
from timm.models.vision_transformer import Attention, Block, Mlp
from torch import nn

from tactile_align.errors import InputError
from tactile_align.features.encoder import Encoder

NORMS, OTHERS = 2, 6  # numbers of width D per token and block: inputs of the norms, and others outside the MLP
STATE = 12  # bytes per trained weight: its gradient and the two moments of AdamW


@dataclass(frozen=True)
class EncoderCost:
    """Cost of an image encoder in a training step.

    Attributes:
        fixed_bytes: Memory that does not depend on the batch: weights, gradients, the state of AdamW, and in bfloat16 a
            copy of the trained weights.
        image_bytes: Memory that each image needs until the backward pass has used it.
        image_flops: Multiplications and additions for each image: forward, and backward where weights are trained.
    """

    fixed_bytes: int
    image_bytes: int
    image_flops: int

    def text(self, images: int) -> str:
        """Return the cost of a step with a number of images in one line of text."""
        whole = (self.fixed_bytes + images * self.image_bytes) / 1e9
        each = f"{self.image_bytes / 1e6:.3g} MB for each of {images} images"
        work = images * self.image_flops / 1e12
        return f"{whole:.3g} GB ({self.fixed_bytes / 1e9:.3g} GB fixed, {each}) and {work:.3g} TFLOP a step"


def cost_of(encoder: Encoder, precision: str = "float32") -> EncoderCost:
    """Return the cost of a vision transformer in a training step.

    Adapters, poolings, the loss and the policy are not included.

    Args:
        encoder: The encoder; which of its weights are trained, and gradient checkpointing, follow its config.
        precision: Precision of the training step (`optimiser.precision`), "float32" or "bfloat16". The encoder's own
            precision comes first.

    Raises:
        InputError: The encoder is no vision transformer, has a convolutional stem, or has blocks of another form than
            those that the formula describes, as DINOv3 has.
    """
    config, visual, blocks = encoder.config, encoder.visual, encoder.blocks
    if blocks is None or config.stem != "patch" or not _plain(blocks[0]):
        raise InputError(
            f"the formula is for vision transformers of plain blocks without a convolutional stem; got {encoder.name}. "
            f"Use the measured row `largest-batch` of tactile-align doctor"
        )
    used, width = max(encoder.used_layers) + 1, encoder.width // len(encoder.used_layers)
    learning = {"full": used, "last": config.last_blocks}.get(config.tune, 0)
    trunk, grid = getattr(visual, "trunk", None), encoder.grid[0] * encoder.grid[1]
    tokens = grid + (1 if trunk is None else trunk.num_prefix_tokens)
    low = (config.precision or precision) == "bfloat16"
    number = 2 if low else 4
    hidden = next(part for part in blocks[0].get_submodule("mlp").modules() if isinstance(part, nn.Linear)).out_features
    quick = any(isinstance(part, open_clip.transformer.QuickGELU) for part in blocks[0].modules())
    scales = sum(name.startswith("ls") and not isinstance(m, nn.Identity) for name, m in blocks[0].named_children())
    block = 4 * NORMS * width + number * ((OTHERS + scales) * width + (3 if quick else 2) * hidden)
    kept = block * learning
    if config.checkpointing and learning:
        kept = 4 * width * learning + block  # the inputs of all blocks, and one block while it is recomputed
    embedding = next(part for part in visual.modules() if isinstance(part, nn.Conv2d)).weight
    image_bytes = tokens * (kept + 4 * width * (learning > 0))  # and the input of the final norm
    if config.tune == "full":
        image_bytes += number * embedding.shape[1] * encoder.input_size[0] * encoder.input_size[1]
        image_bytes += 4 * width * tokens * (trunk is None)  # the input of open_clip's first norm
    layers = tokens * width * (8 * width + 4 * hidden) + 4 * tokens * tokens * width
    flops = layers * (used + learning * (3 if config.checkpointing else 2))
    flops += 2 * grid * embedding.numel() * (2 if config.tune == "full" else 1)
    weights = sum(p.numel() for p in encoder.parameters())
    trained = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    return EncoderCost(4 * weights + (STATE + 2 * low) * trained, image_bytes, flops)


def _plain(block: nn.Module) -> bool:
    """Return whether a transformer block is one of open_clip or a plain one of timm, as the formula needs."""
    if type(block) is ResidualAttentionBlock:
        return True
    norms = [part for name, part in block.named_modules() if "norm" in name and not isinstance(part, nn.Identity)]
    plain = type(block) is Block and type(block.attn) is Attention and type(block.mlp) is Mlp
    return plain and len(norms) == 2 and all(isinstance(norm, nn.LayerNorm) for norm in norms)
