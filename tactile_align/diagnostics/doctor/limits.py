"""Limits of the doctor checks, and checks without a numeric limit."""

import math
from collections.abc import Sequence
from functools import partial

from tactile_align.checks import GRAVEST_FIRST, Check, Limit, Status, graded
from tactile_align.datasets.stream_faults import LEAST_TOUCH_QUALITY
from tactile_align.features.health import COLLAPSED_RANK, COLLAPSED_SPREAD

# fmt: off
STREAM = "check the stream with `tactile-align inspect`: the camera may be frozen, or the stream name wrong"
STATISTICS = "compute the statistics from the training split: Statistics.of(training episodes)"
PASSES = "stack the images of a batch and run each encoder once"
FEATURES = "lower optimiser.lr_tower and lr_head, raise hsa.temperature, and check that the images differ"
RATE = "raise optimiser.warmup_steps, or lower optimiser.lr, lr_tower and lr_head until the loss falls"
DENOISER = (
    "start the output layer at 0 and the other weights with a standard deviation of 0.02, and scale actions to -1..1"
)
LIMITS = {
    "stream-change": Limit("Mean change of {} from moment to moment", 1.0, 1.0, " grey levels", at_least=True,
        why="a constant stream gives the encoder no information, so no loss can fall", advice=STREAM),
    "distinct-frames": Limit("Frames of {} that differ from all other frames", 0.5, -math.inf, form=".0%",
        why="repeated frames make the data set smaller than it seems", advice=STREAM),
    "image-brightness": Limit("Distance of the mean of {} from black and white", 5.0, 5.0, " grey levels",
        at_least=True,
        why="the encoder divides images by 255 itself, so images that are already scaled to 0..1 are almost black",
        advice="pass images as recorded, uint8 RGB; if the recording itself is black or white, check the exposure"),
    # A JPEG is decoded at a reduced size if that suffices, which changes a frame by about 1 grey level.
    "image-is-recorded": Limit("Difference of {} from the recorded frame", 2.0, 2.0, " grey levels", ".2f",
        why="the encoder gets another image than the recorded one: with swapped channels, of another moment, or "
            "scaled twice",
        advice="compare a batch with `tactile-align overlay`, and apply every change of an image through its ImageMap"),
    "box-follows-image": Limit("Distance of the box of {} from its place in the image", 0.5, 0.5, " px", ".2f",
        why="a box that is not resized like its image covers the wrong tokens",
        advice="apply the same ImageMap to image and box"),
    "colour-order": Limit("Cameras that contradict the stated channel order", 0, 0,
        why="pretrained encoders have learnt colours, so swapped channels make their features worse",
        advice="set channels in the episode layout to the order that the recorder wrote"),
    "touch-storage": Limit("JPEG quality of {}", LEAST_TOUCH_QUALITY, -math.inf,
        why="a contact changes colours only slightly, and JPEG compression removes slight changes. At quality 50, the "
            "error is a tenth of the change that a contact causes",
        advice="convert the raw recordings again (`tactile-align convert` copies their JPEGs unchanged), and record "
            "touches at quality 95 or as PNG. The lost detail cannot be recovered"),
    "moving-actions": Limit("Action columns that change over time", 1, 1, at_least=True,
        why="constant actions are trivial to predict", advice="check the action stream of the layout"),
    "training-statistics": Limit("Error of the statistics, relative to their scale", 1e-6, 1e-6, form=".1e",
        why="statistics that include held-out episodes make validation too optimistic", advice=STATISTICS),
    "normalised-joints": Limit("Largest normalised joint value", 12, 12, " standard deviations", ".1f",
        why="wrong statistics move the inputs out of the usual range", advice=STATISTICS),
    "pad-direction": Limit("Angle between the pad of {1} and the direction to the other finger, data entry {0}", 45,
        math.inf, " degrees", ".0f",
        why="a pad that faces along the tool, or into its own finger, shows that the sensor and its box are rotated",
        advice="set pad.normal in the rig to the outward direction of the gel, in the sensor's axes"),
    "box-share": Limit("Moments of {} with a box", 0.5, 0.05, form=".0%",
        why="a moment without a box gives no pair, and a sensor that is never in view suggests a wrong rig",
        advice="run `tactile-align verify`, and check with `tactile-align overlay` that the boxes lie on the sensor"),
    "contact-share": Limit("Moments of {} with a contact and a box", 0.05, 0.005, form=".1%",
        why="touches without contact all look alike, so the loss cannot tell them apart",
        advice="record more contacts, or raise contact_share; check the touch stream with `tactile-align inspect`"),
    "negatives-per-pair": Limit("Negatives of a pair of {} in its batch", 5.0, 1.0, form=".1f",
        why="with few negatives the loss is easy, so it teaches little: 2 negatives are a choice among three"),
    "false-negatives": Limit("Negatives of {} with the same contact, or both without contact", 0.02, 0.1, form=".1%",
        why="such negatives look like the positive pair, but the loss pushes them apart and cannot become small",
        advice="several contacts may show the same touch: set hsa.touch_ceiling"),
    "pairs-without-negatives": Limit("Pairs of {} without a negative in their batch", 0.0, 0.5, form=".0%",
        why="the loss of such a pair is always 0, so the run learns from fewer pairs than the data contain"),
    "normalisation": Limit("Difference of the input of {} from pixels normalised once", 0.02, 0.02,
        " standard deviations", ".2g",
        why="the weights were trained on pixels normalised once, by the encoder's own mean and std",
        advice="pass uint8 images and let only the encoder normalise them"),
    "encoder-passes": Limit("Encoder passes per step beyond those needed", 0, math.inf,
        why="each additional pass costs as much time as the first", advice=PASSES),
    "images-per-pass": Limit("Images per encoder pass, divided by the batch size", 1.0, 1.0, form=".2g", at_least=True,
        why="one image at a time leaves the processor almost idle: 48 small passes per step made the original slow",
        advice=PASSES),
    "rows-stay-pairs": Limit("Rows of {0} that react wrongly when one {1} image changes", 0, 0,
        why="a feature that depends on another moment's image makes wrong pairs, and a feature that ignores its own "
            "image learns nothing",
        advice="keep the batch axis in order from data to loss, and keep features attached to the gradient"),
    "trainable-parameters": Limit("Parameters that should learn but cannot", 0, 0,
        why="parameters that are frozen or not in the optimiser keep their initial values for the complete run",
        advice="set features.vision.tune = 'frozen' if that is intended; else call requires_grad_(True)"),
    "new-part-rate": Limit("Learning rate of the {} that start from random weights", 1e-4, -math.inf, form=".1e",
        why="at a rate of 1e-5, no weight changes by more than 0.15 in 30,000 steps, so new layers stay almost random",
        advice="set optimiser.lr_head and lr_temperature to about 1e-4 to 1e-3, and lr_tower to 1e-3 from scratch"),
    "act-rate": Limit("Learning rate of ACT", 1e-5, -math.inf, form=".1e",
        why="the ACT paper uses 1e-5", advice="set optimiser.lr to 1e-5 or more"),
    # 100 decades exceed the range of float32, so only a missing or non-finite gradient fails.
    "gradient": Limit("Distance of the gradient of {} from the median of all parts", 3.0, 100.0, " decades", ".1f",
        why="a part without a gradient is disconnected from the loss and never learns",
        advice="look for detach(), no_grad() or an unused layer between this part and the loss; freeze unused parts"),
    "alignment-reaches-action": Limit("Change of the actions with the images of the aligned encoders", 1e-12, 1e-12,
        form=".1e", at_least=True,
        why="if the policy does not use the aligned encoders, the alignment cannot improve the actions. The original "
            "aligned an encoder that its policy did not use and that was never saved",
        advice="set policy.vision = 'tower', policy.region_tokens = true or policy.touch_tokens = true"),
    "validation-losses": Limit("Training losses that validation does not compute", 0, 0,
        why="a loss that validation does not compute can get worse unnoticed",
        advice="compute the same losses in eval mode"),
    "output-scale": Limit("Standard deviation of the predictions divided by that of the targets", 5.0, 10.0,
        form=".2g",
        why="the action error then dominates all other losses: a standard deviation of 37 gives a squared loss of 1400",
        advice="set policy.init_gain to 0.5 or lower, and check that the targets are normalised"),
    "output-std": Limit("Standard deviation of the denoiser's outputs before the first step", 1.5, 3.0, form=".2g",
        why="the noise that the denoiser predicts has the standard deviation 1. Outputs of 37 give a loss of 1400",
        advice=DENOISER),
    "initial-loss": Limit("Distance of the denoising loss before the first step from 0.95 to 1.10 times chance", 0.0,
        0.4, form=".2g",
        why="an output of 0 has the loss chance, so another loss shows wrong initial weights, actions or noise",
        advice=DENOISER),
    "action-range": Limit("Largest normalised action", 1.001, 1.001, form=".3g",
        why="a denoiser starts from noise of the size 1 and clips actions to -1..1, so it cannot reach larger actions",
        advice="scale actions by their range: Statistics.of(training episodes, scale_to_range=True)"),
    "loss-as-defined": Limit("Relative error of the gradient of a large action loss", 0.001, 0.01, form=".2g",
        why="a loss that is scaled, clipped or skipped when it is large has a wrong gradient exactly when the model "
            "has most to learn",
        advice="return the loss as it is; clip gradients instead, with optimiser.clip_norm"),
    "gradient-clip": Limit("Norm at which gradients are clipped", 10.0, math.inf,
        why="a few odd batches have gradients that are far too large, and a step along them destroys weights",
        advice="set optimiser.clip_norm to 10 for ACT, or to 1 for the heads flow and diffusion"),
    "denoiser-rate": Limit("Learning rate of the denoiser, times its width", 0.1, 1.0, form=".2g",
        why="the first step of AdamW changes an output by up to rate x width, and the outputs should become 1 in many "
            "steps",
        advice="set optimiser.lr to about 0.05 / policy.d_model: 1e-4 for a width of 512, 1e-3 for 64"),
    "observation-shuffle": Limit("Denoising loss near pure noise with shuffled observations, divided by the true loss",
        1.02, 1.005, form=".4g",
        why="near pure noise only the observation tells the action. A loss that does not depend on it belongs to a "
            "policy that ignores what it sees",
        advice="check that the encoder's memory reaches the denoiser, and that states, images and actions of a batch "
            "belong to the same moments"),
    "saturated-activations": Limit("Outputs at their limit", 0.5, 0.5, form=".0%",
        why="a saturated tanh or sigmoid has no gradient, so the predictions stay at the limits",
        advice="remove the tanh or sigmoid from the action head; the L1 loss needs no bounded outputs"),
    "stuck-predictions": Limit("Change of the predictions from moment to moment", 1e-4, 1e-4, form=".1e", at_least=True,
        why="the policy predicts the same actions for every observation",
        advice="check that state, touch and region tokens reach ACT; for a trained run, check the learning rate"),
    # Healthy features from scratch have a rank of at least 4.8 and an eigenvalue ratio of at least 4e-4.
    "feature-rank": Limit("Effective rank of the {0} features of {1}", 3.0, COLLAPSED_RANK, form=".1f",
        why="features that lie on one line cannot tell moments apart", advice=FEATURES),
    "feature-spread": Limit("Spread of the {0} features of {1}", COLLAPSED_SPREAD, COLLAPSED_SPREAD,
        form=".2g", at_least=True,
        why="features that lie in one point cannot tell moments apart", advice=FEATURES),
    "eigenvalue-ratio": Limit("Eigenvalue ratio of the {0} features of {1}", 1e-4, -math.inf, form=".1e",
        why="the features use only a few directions of their space",
        advice="repeat this check after some steps; if the ratio stays low, add negatives or data"),
    "loss-against-chance": Limit("Alignment loss before the first step, divided by chance", 0.5, -math.inf, form=".2f",
        why="a loss far below chance before any step shows that touch and view share information that they should not",
        advice="check that touch and view images differ"),
    # A ratio up to 1.001 is rounding error.
    "first-step": Limit("Loss after the first step of the run, divided by the loss before", 1.001, 3.0, form=".4g",
        why="a learning rate at which the first step raises the loss destroys the initial weights: a rate of 5e-3 "
            "raised a loss from 0.47 to 4.22",
        advice=RATE),
    "full-rate-step": Limit("Loss after one step at the full rate, divided by the loss before", 2.0, 3.0, form=".4g",
        why="the run reaches this learning rate after its warm-up", advice=RATE),
    "touches-move": Limit("Difference of the next touches from the newest one of their context, divided by that of "
        "different moments", 0.1, -math.inf, form=".2f",
        why="if touches hardly change within a window, a copy predicts them, and nothing is learnt from time",
        advice="raise pretrain.next.stride: the window then spans more time"),
    "one-batch-overfits": Limit("Loss after some steps on one batch, divided by chance or, without alignment, by the "
        "loss before", 0.9, 0.999, form=".2f",
        why="a model that cannot overfit one batch cannot learn a data set",
        advice="set the learning rate of new weights to about 1e-4 if it is far lower; otherwise correct the failed "
            "checks above"),
    "touch-shuffle": Limit("Alignment loss with shuffled touches, divided by the true loss", 1.01, 1.001, form=".4g",
        why="a loss that does not depend on which touch belongs to which view has learnt no relation between them",
        advice="check that touches differ from moment to moment and that the loss has a gradient on them"),
    "pointer-targets": Limit("Moments of {} with a contact ahead in the image", 0.05, 0.005, form=".1%",
        why="the pointer learns only from such moments",
        advice="raise pointer.horizon, choose a view that shows the contacts, and record more of them"),
    "done-classes": Limit("Rarer class of done in the batches of {}", 0.1, -math.inf, form=".1%",
        why="a class that is almost never drawn is never predicted, so done becomes always 1 or always 0",
        advice="lower pointer.horizon or change pointer.most; where recordings are cut off, set complete = false"),
    "point-is-recorded": Limit("Distance of the points of {} from the recorded contacts", 0.5, 0.5, " px", ".2f",
        why="a point that does not move with its image teaches wrong places",
        advice="apply the same ImageMap to image and points"),
    "pointer-saturated": Limit("Offsets of the pointer at their limit", 0.5, 0.5, form=".0%",
        why="a saturated tanh has no gradient, so the points stay at the limits",
        advice="remove the tanh from the head of the pointer; its losses need no bounded outputs"),
    "pointer-rate": Limit("Learning rate of the pointer, times its width", 0.3, 1.5, form=".2g",
        why="the first step of AdamW changes an output by up to rate x width. At five times its rate, a pointing model "
            "went from a loss of 0.47 to 4.22 in one step",
        advice="set optimiser.lr_pointer to about 0.13 / pointer.width: 1e-3 for a width of 128"),
    "point-spread": Limit("Spread of the predicted points of {} after some steps on one batch, divided by that of the "
        "targets", 0.2, -math.inf, form=".2f",
        why="the pointer predicts the same place for every image",
        advice="check that images differ, that no output is squashed, and the learning rate of the pointer"),
    "points-in-corner": Limit("Predicted points of {} that are wrongly in a corner of the image", 0.5, 0.9, form=".0%",
        why="predictions that are stuck in a corner are those of a head that has left the range of its targets",
        advice="lower the learning rate of the pointer, and check that no output is squashed"),
    "done-predicted": Limit("Rarer class of done in the predictions of {} after some steps on one batch, divided by "
        "that in the targets", 0.2, -math.inf, form=".2f",
        why="the pointer predicts one class for every image",
        advice="check the row done-classes, and that the logit of done has a gradient"),
    "pointer-image-shuffle": Limit("Loss of the pointer with shuffled images, divided by the true loss", 1.01,
        -math.inf, form=".4g",
        why="a loss that does not depend on the image belongs to a pointer that reads only the joints",
        advice="check that the images differ from moment to moment and that the vision encoder has a gradient"),
    "box-shift": Limit("Relative change of the alignment loss when boxes move by half their size", 1e-5, 1e-5,
        form=".1e", at_least=True,
        why="features that do not depend on the box describe the whole image, so the box has no effect",
        advice="check features.pooling, and that the boxes are finite and inside the image"),
}
# fmt: on
"""Limits of the doctor checks that compare a number, by kind of check."""
judged = partial(graded, LIMITS)
"""`checks.graded` with `LIMITS`."""

STATED = {
    "policy-sees": "Inputs of the policy",
    "box-jitter": "Shift of the crops at the box in training",
    "rig-verified": "Rig of data entry {}",
    "pairs": "Pairs of the {} episodes",
    "encoder-weights": "Initial weights of the encoders",
    "pushes-apart": "Part of the loss that keeps features apart",
    "largest-batch": "Largest batch whose training step fits",
    "padded-steps": "Steps that the action loss is averaged over",
    "self-checks": "Checks of the toolkit itself",
    "training-step": "First training step",
}
"""Titles of the doctor checks without a numeric limit, by kind of check."""


SELF_CHECKS = (
    "image-is-recorded",
    "box-follows-image",
    "point-is-recorded",
    "training-statistics",
    "normalisation",
    "encoder-passes",
    "images-per-pass",
    "rows-stay-pairs",
    "validation-losses",
)
"""Kinds of the checks that compare the toolkit with itself. They tell little about the data or the config of a run."""


def folded(checks: Sequence[Check]) -> list[Check]:
    """Return the checks, with all `SELF_CHECKS` merged into one check that lists those that did not pass."""
    own = [check for check in checks if check.kind in SELF_CHECKS]
    others = [check for check in checks if check.kind not in SELF_CHECKS]
    if not own:
        return others
    bad = [check for check in own if check.status != "pass"]
    status = min((check.status for check in own), key=GRAVEST_FIRST.index)
    advice = "; ".join(dict.fromkeys(check.advice for check in bad))
    why = "the cache is damaged, data or model were not made by this toolkit, or the toolkit has an error"
    measured = "; ".join(f"{check.id}: {check.measured}" for check in bad) or f"all {len(own)} pass"
    advice = f"delete the cache folder and run again. If the check still does not pass: {advice}"
    return [*others, stated("self-checks", status, measured, "all pass", why=why, advice=advice)]


def stated(kind: str, status: Status, measured: str, needed: str, *on: str, why: str, advice: str) -> Check:
    """Return a check without a numeric limit; `why` and `advice` are omitted from a check that passes.

    Args:
        kind: Key of the check in `STATED`.
        status: pass, info, warn or fail.
        measured: Measured result, in words.
        needed: Result that passes, in words.
        on: Subjects of the check, such as a view; they become part of the id and the title.
        why: Why the result matters.
        advice: What to do if the check does not pass.
    """
    why, advice = ("", "") if status == "pass" else (why, advice)
    title = STATED[kind].format(*on)
    return Check("/".join((kind, *on)), title, status, measured, limit=needed, why=why, advice=advice)
