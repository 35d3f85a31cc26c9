"""Next-touch prediction: the touches of a window predict the features of the next touches."""

from typing import Any

import torch
from torch import Tensor, nn

from tactile_align.losses.lejepa import Embedded, LeJEPA, invariance


class NextTouch(LeJEPA):
    """Self-supervised objective (1 - w) next + w SIGReg of a window of V touches, the newest first, in place of crops.

    The predictor gets the tokens of K touches, the context, and predicts those of the touch after them; its prediction
    then takes the place of that touch in the context, until all V - K newer touches are predicted. next is the
    invariance of LeJEPA, between z of a predicted and of the true touch, so that w means the same. Without SIGReg, the
    objective is smallest if all z are equal.

    Args:
        predictor: Module from tokens (B, K, rows, columns, D), the newest first, to tokens (B, rows, columns, D).
        context: K.
        lejepa: Arguments of `LeJEPA`.

    Source: the roll-out is that of Assran et al., V-JEPA 2-AC, arXiv 2506.09985. Its mean absolute difference of
    layer-normed tokens is not used: with it, and w = 0.05, the tokens of a trained encoder drew together.
    """

    kind, pulled = "next", "next"

    def __init__(self, predictor: nn.Module, context: int, *lejepa: Any) -> None:
        super().__init__(*lejepa)
        self.predictor, self.context = predictor, context

    def pull(self, embedded: Embedded) -> dict[str, Tensor]:
        """Return the error of the prediction, and what it is without information.

        next: invariance between predicted and true z. next_chance: that between the mean over the B images and the true
        z; 0.25 if z is standard normal. next_still: that between the newest touch of the context and the true z.
        """
        count = len(embedded.z) - self.context
        seen, predicted = embedded.tokens[count:], list[Tensor]()
        for _ in range(count):
            predicted.insert(0, self.predictor(seen.movedim(0, 1)))
            seen = torch.cat([predicted[0][None], seen[:-1]])
        truth, newest = embedded.z[:count], embedded.z[count]
        mean = truth.mean(dim=1, keepdim=True)
        return {
            "next": invariance(torch.stack([self.projected(torch.stack(predicted)), truth])),
            "next_chance": invariance(torch.stack([mean.expand_as(truth), truth])).detach(),
            "next_still": invariance(torch.stack([newest.expand_as(truth), truth])).detach(),
        }
