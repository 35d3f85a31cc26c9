"""Limits of the doctor's checks, and the checks that no number judges."""

import math
from functools import partial

from tactile_align.checks import Check, Limit, Status, graded
from tactile_align.datasets.looks import LEAST_TOUCH_QUALITY
from tactile_align.features.health import COLLAPSED_RANK, COLLAPSED_SPREAD

# fmt: off
STREAM = "look at the stream with `tactile-align inspect`; is the camera frozen, or the wrong stream named?"
STATISTICS = "take them from the training split: Statistics.of(training episodes)"
PASSES = "stack the images of a batch and run each encoder once"
FEATURES = "lower optimiser.lr_encoder, raise hsa.temperature, and check that images differ"
RATE = "raise optimiser.warmup_steps, or lower optimiser.lr and lr_encoder to a factor at which the loss falls"
LIMITS = {
    "stream-change": Limit("Change of {} from moment to moment", 1.0, 1.0, " grey levels", at_least=True,
        why="a constant stream gives the encoder no information; no loss can fall on it", advice=STREAM),
    "distinct-frames": Limit("Frames of {} that differ from all others", 0.5, -math.inf, form=".0%",
        why="frames that repeat are fewer moments than they seem", advice=STREAM),
    "image-brightness": Limit("Distance of {} from black and from white", 5.0, 5.0, " grey levels", at_least=True,
        why="the encoder divides by 255 and subtracts its own mean; images that were scaled before are black to it",
        advice="hand images over as recorded, uint8 RGB"),
    "image-is-recorded": Limit("Difference of {} from the recorded frame", 1.0, 1.0, " grey levels", ".2f",
        why="the encoder gets another image than that moment's: channels exchanged, rows shuffled, or scaled twice",
        advice="compare a batch with `tactile-align overlay`; keep every change of an image in its ImageMap"),
    "box-follows-image": Limit("Distance of the box of {} from its place in the image", 0.5, 0.5, " px", ".2f",
        why="a box scaled by another factor than its image lies on the wrong tokens",
        advice="move image and box by the same ImageMap"),
    "colour-order": Limit("Cameras that contradict the stated channel order", 0, 0,
        why="pretrained encoders tell red from blue; exchanged channels cost them what they have learnt",
        advice="set channels in the episode layout to what the recorder wrote"),
    "touch-storage": Limit("JPEG quality of {}", LEAST_TOUCH_QUALITY, -math.inf,
        why="a print is a faint change of colour, and JPEG rounds faint colours away: at quality 50 it errs by a "
            "tenth of what a contact adds",
        advice="convert the raw recordings again (`tactile-align convert` takes their JPEGs over as they are), and "
            "record touches at quality 95 or as PNG; nothing brings back what is lost"),
    "moving-actions": Limit("Action columns that move", 1, 1, at_least=True,
        why="constant actions are learnt at once and mean nothing", advice="check the action stream of the layout"),
    "training-statistics": Limit("Error of the statistics, of their scale", 1e-6, 1e-6, form=".1e",
        why="statistics that include held-out episodes make validation too optimistic", advice=STATISTICS),
    "normalised-joints": Limit("Largest normalised joint", 12, 12, " standard deviations", ".1f",
        why="wrong statistics put inputs out of range", advice=STATISTICS),
    "pad-direction": Limit("Pad of {1} to the other finger, data entry {0}", 45, math.inf, " degrees", ".0f",
        why="a pad that faces along the tool, or into its own finger, means a turned sensor and a turned box",
        advice="set pad.normal in the rig to the outward direction of the gel, in the sensor's axes"),
    "box-share": Limit("Moments of {} with a box", 0.5, 0.05, form=".0%",
        why="without a box there is no pair; a sensor that is never in view points at a wrong rig",
        advice="run `tactile-align verify`, look at `tactile-align overlay`; is the sensor where the rig puts it?"),
    "contact-share": Limit("Moments of {} in contact with a box", 0.05, 0.005, form=".1%",
        why="touches without contact are all alike and cannot be told apart",
        advice="record more contacts, or raise contact_share; check the touch stream with `tactile-align inspect`"),
    "false-negatives": Limit("Negatives of {} that show the same contact, or no contact either", 0.02, 0.1, form=".1%",
        why="the loss then pushes apart features of like touches, and can never fall far",
        advice="raise hsa.min_gap to the length of a contact, keep hsa.require_contact, or set hsa.touch_ceiling"),
    "pairs-without-negatives": Limit("Pairs of {} that have no negative in their batch", 0.0, 0.5, form=".0%",
        why="the loss of such a pair is 0 whatever it shows, so the run learns from fewer pairs than it is given",
        advice="set contact_share = 0.5 or more, raise batch_size, or lower hsa.min_gap below the length of an "
            "episode"),
    "normalisation": Limit("Input of {}, from pixels normalised once", 0.02, 0.02, " standard deviations", ".2g",
        why="the weights expect pixels normalised once, by their own mean and std; anything else is noise to them",
        advice="hand over uint8 and let the encoder subtract its own mean; nothing else may normalise"),
    "encoder-passes": Limit("Encoder passes of a step beyond those needed", 0, math.inf,
        why="each pass costs as much as the first", advice=PASSES),
    "images-per-pass": Limit("Images of an encoder pass, of a batch", 1.0, 1.0, form=".2g", at_least=True,
        why="one image at a time wastes nearly all of the machine: 48 small passes a step made the original slow",
        advice=PASSES),
    "rows-stay-pairs": Limit("Rows of {0} that a change of one {1} wrongly changes or leaves", 0, 0,
        why="a feature that belongs to another moment makes wrong pairs; one that ignores its image learns nothing",
        advice="keep the batch axis in order from data to loss, and nothing detached or constant in between"),
    "trainable-parameters": Limit("Parameters that should learn and do not", 0, 0,
        why="parameters that are frozen or not in the optimiser keep their initial values for the whole run",
        advice="set features.vision.tune = 'frozen' if it is meant, or call requires_grad_(True)"),
    # 100 decades are more than float32 spans: only no gradient and a non-finite one fail.
    "gradient": Limit("Gradient of {} beside the median part", 3.0, 100.0, " decades", ".1f",
        why="a part without gradient is disconnected from the loss and never learns",
        advice="look for detach(), no_grad() or an unused layer between that part and the loss; freeze what is unused"),
    "alignment-reaches-action": Limit("Actions change with the aligned encoders' images", 1e-12, 1e-12,
        form=".1e", at_least=True,
        why="an encoder that the policy does not read is trained for nothing: the original's was private and "
            "never saved",
        advice="set policy.region_tokens or policy.touch_tokens = true"),
    "validation-losses": Limit("Losses of training that validation leaves out", 0, 0,
        why="a loss that validation leaves out can go wrong unseen", advice="compute the same losses in eval mode"),
    "output-scale": Limit("Spread of the predictions, of that of the targets", 5.0, 10.0, form=".2g",
        why="the action error then exceeds every other loss: a spread of 37 explains a squared loss of 1400",
        advice="set policy.init_gain = 0.5 or lower, and check that targets are normalised"),
    "saturated-activations": Limit("Outputs at their limit", 0.5, 0.5, form=".0%",
        why="a saturated tanh or sigmoid passes no gradient, and the predictions stick to its ends",
        advice="remove the tanh or sigmoid from the action head; L1 needs no bounds"),
    "stuck-predictions": Limit("Predictions change from moment to moment", 1e-4, 1e-4, form=".1e", at_least=True,
        why="the policy gives one answer whatever it sees",
        advice="check that state, touch and region tokens reach ACT, and the learning rate of a trained run"),
    # Healthy features from scratch have a rank of 4.8 and more, and an eigenvalue ratio of 4e-4 and more.
    "feature-rank": Limit("Effective rank of the {0} features of {1}", 3.0, COLLAPSED_RANK, form=".1f",
        why="features on one line cannot tell moments apart", advice=FEATURES),
    "feature-spread": Limit("Spread of the {0} features of {1}", COLLAPSED_SPREAD, COLLAPSED_SPREAD,
        form=".2g", at_least=True,
        why="features in one point cannot tell moments apart", advice=FEATURES),
    "eigenvalue-ratio": Limit("Eigenvalue ratio of the {0} features of {1}", 1e-4, -math.inf, form=".1e",
        why="the features use a few directions only",
        advice="measure it again after some steps; if it stays, there are too few negatives or too little data"),
    "pairs-in-batch": Limit("Pairs of a batch with a negative, in the view with the fewest", 1, 1, at_least=True,
        why="without pairs nothing is learnt", advice="raise contact_share or the batch size"),
    "loss-against-chance": Limit("Alignment loss before the first step, of chance", 0.5, -math.inf, form=".2f",
        why="a loss far below chance before any step means that something leaks from touch to view",
        advice="check that touch and view images differ"),
    # 0.001 is rounding.
    "first-step": Limit("Loss after the run's first step, of the loss before", 1.001, 3.0, form=".4g",
        why="a rate at which the first step raises the loss destroys the initial weights: 5e-3 took a loss "
            "from 0.47 to 4.22",
        advice=RATE),
    "full-rate-step": Limit("Loss after one step at the full rate, of the loss before", 2.0, 3.0, form=".4g",
        why="a run with warm-up reaches this rate later", advice=RATE),
    "one-batch-overfits": Limit("Loss after some steps on one batch, of the loss before", 0.9, 0.999, form=".2f",
        why="a model that cannot learn one batch cannot learn many",
        advice="raise the learning rates if they are far below 1e-4 for new weights; else look for dead modules above"),
    "touch-shuffle": Limit("Alignment loss with touches exchanged, of the true one", 1.01, 1.001, form=".4g",
        why="a loss that ignores which touch belongs to which view has learnt nothing of either",
        advice="check that touches differ from moment to moment and reach the loss with gradient"),
    "box-shift": Limit("Alignment loss changes with boxes moved by half their size", 1e-5, 1e-5,
        form=".1e", at_least=True,
        why="features that do not depend on the box are whole-image features: the box is not used",
        advice="check features.pooling, and that boxes are finite and inside the image"),
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
    why, advice = ("", "") if status == "pass" else (why, advice)
    title = STATED[kind].format(*on)
    return Check("/".join((kind, *on)), title, status, measured, limit=needed, why=why, advice=advice)
