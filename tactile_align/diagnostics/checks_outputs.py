"""The doctor's checks of what comes out of a model: the parts of its loss, and its actions."""

import torch

from tactile_align.diagnostics.findings import Finding, judged
from tactile_align.diagnostics.modules import squashed
from tactile_align.diagnostics.patient import Patient


def validation_computes_all(patient: Patient) -> Finding:
    """Whether eval mode computes every part of the loss that training does."""
    model = patient.model
    with torch.no_grad():
        torch.manual_seed(0)
        training = set(model.train()(patient.batch)[1])
        checking = set(model.eval()(patient.batch)[1])
    missing = sorted(training - checking)
    return judged(
        "validation computes all",
        f"missing: {', '.join(missing)}" if missing else f"all {len(training)} parts",
        "everything that training computes",
        broken=bool(missing),
        why="a loss that validation leaves out can go wrong unseen",
        advice="compute the same losses in eval mode",
    )


def padding(patient: Patient) -> Finding:
    """Whether the action loss is divided by the steps it is made of."""
    share = float(patient.batch["is_pad"].float().mean())
    reduction = patient.config.policy.loss_reduction
    return judged(
        "padded steps",
        f"{share:.0%} of the action steps lie past the end of an episode; loss over {reduction} steps",
        "over valid steps",
        warn=patient.model.act is not None and reduction == "all",
        why="dividing by padded steps too makes the loss, and the ends of episodes, count too little",
        advice="set policy.loss_reduction = 'valid'; 'all' is for comparing with the original",
    )


def outputs(patient: Patient) -> list[Finding]:
    """Scale, saturation and variety of the predicted actions."""
    model = patient.model
    if model.act is None:
        return []
    with squashed(model) as saturated, torch.no_grad():
        actions = model.eval().predict(patient.wide, model.see(patient.wide), with_actions=False).actions
    target = patient.wide["action"][~patient.wide["is_pad"]]
    ratio = float(actions.std()) / max(float(target.std()), 1e-9)
    extreme = float((actions.abs() > 0.99 * actions.abs().amax()).float().mean())
    worst = max([*saturated.values(), extreme])
    varies = float(actions.std(dim=0).mean())
    return [
        judged(
            "output scale",
            f"predictions spread {float(actions.std()):.2g}, targets {float(target.std()):.2g}: {ratio:.2g} times",
            "< 5 times, broken above 10",
            broken=not ratio <= 10,
            warn=ratio > 5,
            why=f"an error of {ratio:.0f} spreads swamps every other loss: a spread of 37 explains a squared loss "
            "of 1400",
            advice="set policy.init_gain = 0.5 or lower, and check that targets are normalised",
        ),
        judged(
            "saturated activations",
            f"{worst:.0%} of the outputs stand at their limit",
            "< 50 %",
            broken=worst > 0.5,
            why="a saturated tanh or sigmoid passes no gradient, and the predictions stick to its ends",
            advice="take the squashing layer off the action head; L1 needs no bounds",
        ),
        judged(
            "stuck predictions",
            f"predictions change by {varies:.1e} from moment to moment",
            "> 1e-4",
            broken=not varies > 1e-4,
            why="the policy gives one answer whatever it sees",
            advice="check that state, touch and region tokens reach ACT, and the learning rate of a trained run",
        ),
    ]
