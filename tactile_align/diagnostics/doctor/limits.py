"""What the doctor's values are held against, and the checks that no number judges."""

import math
from functools import partial

from tactile_align.checks import Check, Limit, Status, graded
from tactile_align.datasets.looks import LEAST_TOUCH_QUALITY
from tactile_align.features.health import COLLAPSED_RANK, COLLAPSED_SPREAD

# fmt: off
LIMITS = {
    "stream-change": Limit("Change of {} from moment to moment", 1.0, 1.0, " grey levels", at_least=True,
        why="a stream that always looks the same tells the encoder nothing; no loss can fall on it"),
    "distinct-frames": Limit("Frames of {} that differ from all others", 0.5, -math.inf, form=".0%",
        why="frames that repeat are fewer moments than they seem"),
    "image-brightness": Limit("Distance of {} from black and from white", 5.0, 5.0, " grey levels", at_least=True,
        why="the encoder divides by 255 and takes away its own mean; images that were scaled before come in black"),
    "image-is-recorded": Limit("Difference of {} from the recorded frame", 1.0, 1.0, " grey levels", ".2f",
        why="what the encoder sees is not the frame of that moment: channels exchanged, rows shuffled, or scaled "
            "twice"),
    "box-follows-image": Limit("Distance of the box of {} from its place in the image", 0.5, 0.5, " px", ".2f",
        why="a box scaled by another factor than its image lies on the wrong tokens"),
    "colour-order": Limit("Cameras that contradict the stated channel order", 0, 0,
        why="pretrained encoders know red from blue; exchanged channels cost them what they know"),
    "touch-storage": Limit("JPEG quality of {}", LEAST_TOUCH_QUALITY, -math.inf,
        why="a print is a faint change of colour, and JPEG rounds faint colours away: at quality 50 it errs by a "
            "tenth of what a contact adds"),
    "moving-actions": Limit("Action columns that move", 1, 1, at_least=True,
        why="constant actions are learnt at once and mean nothing"),
    "training-statistics": Limit("Error of the statistics, of their scale", 1e-6, 1e-6, form=".1e",
        why="statistics that include held-out episodes make validation too kind"),
    "normalised-joints": Limit("Largest normalised joint", 12, 12, " standard deviations", ".1f",
        why="wrong statistics put inputs out of range"),
    "pad-direction": Limit("Pad of {1} to the other finger, data entry {0}", 45, math.inf, " degrees", ".0f",
        why="a pad that looks along the tool, or into its own finger, is the sensor turned: its box is too"),
    "box-share": Limit("Moments of {} with a box", 0.5, 0.05, form=".0%",
        why="without a box there is no pair; a sensor that is never in view points at a wrong rig"),
    "contact-share": Limit("Moments of {} in contact with a box", 0.05, 0.005, form=".1%",
        why="moments without contact all feel alike and cannot be told apart"),
    "false-negatives": Limit("Negatives of {} that show the same contact, or no contact either", 0.02, 0.1, form=".1%",
        why="the loss then pushes apart what is alike and can never fall far"),
    "pairs-without-negatives": Limit("Pairs of {} that have no negative in their batch", 0.0, 0.5, form=".0%",
        why="the loss of such a pair is 0 whatever it shows, so the run learns less than its length says"),
    "normalisation": Limit("Input of {}, from pixels normalised once", 0.02, 0.02, " standard deviations", ".2g",
        why="weights expect pixels scaled once by their own mean and std; twice, or by ImageNet's, they see noise"),
    "encoder-passes": Limit("Encoder passes of a step beyond those needed", 0, math.inf,
        why="each pass costs as much as the first"),
    "images-per-pass": Limit("Images of an encoder pass, of a batch", 1.0, 1.0, form=".2g", at_least=True,
        why="one image at a time wastes nearly all of the machine: 48 small passes a step made the original slow"),
    "rows-stay-pairs": Limit("Rows of {0} that a change of one {1} wrongly changes or leaves", 0, 0,
        why="a feature that belongs to another moment makes wrong pairs; one that ignores its image learns nothing"),
    "trainable-parameters": Limit("Parameters that should learn and do not", 0, 0,
        why="what is frozen or not in the optimiser stays at its random start for the whole run"),
    # 100 decades are more than float32 spans: only no gradient and a non-finite one fail.
    "gradient": Limit("Gradient of {} beside the median part", 3.0, 100.0, " decades", ".1f",
        why="a part without gradient is disconnected from the loss and never learns"),
    "alignment-reaches-action": Limit("Actions change with the aligned encoders' images", 1e-12, 1e-12,
        form=".1e", at_least=True,
        why="an encoder that the policy does not read is trained for nothing: the original's was private and "
            "never saved"),
    "validation-losses": Limit("Losses of training that validation leaves out", 0, 0,
        why="a loss that validation leaves out can go wrong unseen"),
    "output-scale": Limit("Spread of the predictions, of that of the targets", 5.0, 10.0, form=".2g",
        why="such an error swamps every other loss: a spread of 37 explains a squared loss of 1400"),
    "saturated-activations": Limit("Outputs that stand at their limit", 0.5, 0.5, form=".0%",
        why="a saturated tanh or sigmoid passes no gradient, and the predictions stick to its ends"),
    "stuck-predictions": Limit("Predictions change from moment to moment", 1e-4, 1e-4, form=".1e", at_least=True,
        why="the policy gives one answer whatever it sees"),
    # Healthy features from scratch have a rank of 4.8 and more, and an eigenvalue ratio of 4e-4 and more.
    "feature-rank": Limit("Effective rank of the {0} features of {1}", 3.0, COLLAPSED_RANK, form=".1f",
        why="features on one line cannot tell moments apart"),
    "feature-spread": Limit("Spread of the {0} features of {1}", COLLAPSED_SPREAD, COLLAPSED_SPREAD,
        form=".2g", at_least=True,
        why="features in one point cannot tell moments apart"),
    "eigenvalue-ratio": Limit("Eigenvalue ratio of the {0} features of {1}", 1e-4, -math.inf, form=".1e",
        why="the features use a few directions only"),
    "pairs-in-batch": Limit("Pairs of a batch with a negative, in the view with the fewest", 1, 1, at_least=True,
        why="without pairs nothing is learnt"),
    "loss-against-chance": Limit("Alignment loss before the first step, of chance", 0.5, -math.inf, form=".2f",
        why="far below chance before any step something leaks from touch to view"),
    # 0.001 is rounding.
    "first-step": Limit("Loss after the run's first step, of the loss before", 1.001, 3.0, form=".4g",
        why="a rate at which the first step makes things worse throws the initial weights away: 5e-3 took a loss "
            "from 0.47 to 4.22"),
    "full-rate-step": Limit("Loss after one step at the full rate, of the loss before", 2.0, 3.0, form=".4g",
        why="a run with warm-up reaches this rate later"),
    "one-batch-overfits": Limit("Loss after some steps on one batch, of the loss before", 0.9, 0.999, form=".2f",
        why="what cannot learn one batch cannot learn many"),
    "touch-shuffle": Limit("Alignment loss with touches exchanged, of the true one", 1.01, 1.001, form=".4g",
        why="a loss that does not mind which touch belongs to which view has learnt nothing of either"),
    "box-shift": Limit("Alignment loss changes with boxes moved by half their size", 1e-5, 1e-5,
        form=".1e", at_least=True,
        why="features that do not depend on the box are whole-image features: the box is not used"),
}
# fmt: on
"""Limits of the doctor's checks by kind."""
judged = partial(graded, LIMITS)
"""`checks.graded` with these limits."""

STATED = {
    "rig-verified": "Rig of data entry {}",
    "encoder-weights": "Weights the encoders start from",
    "padded-steps": "Steps that the action loss is divided by",
    "training-step": "A training step",
}
"""Titles of the checks that no number judges, by kind."""


def stated(kind: str, status: Status, measured: str, needed: str, *on: str, why: str, advice: str) -> Check:
    """Return a check that no number judges; why and advice are left out where it passes.

    Args:
        kind: Key of `STATED`.
        status: pass, info, warn or fail.
        measured: What came.
        needed: What passes.
        on: What it was measured on; goes into the id and the title.
        why: Why it matters.
        advice: What to do.
    """
    good = status == "pass"
    title = STATED[kind].format(*on)
    return Check(
        "/".join((kind, *on)), title, status, measured, None, "", needed, "" if good else why, "" if good else advice
    )
