"""Bundle adjustment of the camera pose X and the board pose Z over all views: T_camera_board = X^-1 B_i Z."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tactile_align.calibration.camera import Camera
from tactile_align.calibration.views import View, moved, rms, slopes
from tactile_align.geometry.frames import invert, pose, rotation_exp, skew

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


HUBER_PX = 1.0
PENALTY_PX = 1e3
"""Constant large residual of a point that a trial pose puts behind the camera, px."""


@dataclass(frozen=True)
class Prior:
    """Standard deviations of the error of each robot pose: of its translation, m, and of its rotation, rad."""

    metres: float = 0.0005
    radians: float = np.radians(0.05)


@dataclass(frozen=True)
class Fit:
    """Result of a bundle adjustment over N views.

    Attributes:
        X: (4, 4) pose of the camera T_parent_camera, m.
        Z: (4, 4) pose of the board T_other_board, m, in T_camera_board = X^-1 B Z: `other` is the frame whose pose in
            the parent frame is B.
        scale: Fitted factor on the board's lengths; 1 if it was not fitted.
        per_view: (N,) RMS reprojection error of each view, px.
        rms: RMS reprojection error of all points, px.
        H: (N, n, n) second derivative of each view's loss in the n parameters that all views share: translation t and
            rotation vector w of X, then of Z, then ln scale if fitted. With a prior, the correction of the view's robot
            pose is eliminated.
        g: (N, n) first derivative of each view's loss in the same parameters.
        weights: (N,) weight of each view.
        corrections: (N, 6) correction of each robot pose, metres and radians; zero without a prior.
        B: (N, 4, 4) robot's part of the chain, see `hand_eye.chain`, with `corrections` applied, m.
    """

    X: np.ndarray
    Z: np.ndarray
    scale: float
    per_view: np.ndarray
    rms: float
    H: np.ndarray
    g: np.ndarray
    weights: np.ndarray
    corrections: np.ndarray
    B: np.ndarray


class _Chain:
    """Residuals of all points and their derivatives. Parameters: t_X, w_X, t_Z, w_Z[, ln scale][, 6 per view]."""

    def __init__(
        self,
        camera: Camera,
        B: np.ndarray,
        views: list[View],
        X: np.ndarray,
        Z: np.ndarray,
        scale: bool,
        prior: Prior | None,
    ) -> None:
        self.camera, self.B, self.X0, self.Z0 = camera, B, X, Z
        self.with_scale, self.prior = scale, prior
        self.points = np.concatenate([view.points for view in views])
        self.uv = np.concatenate([view.uv for view in views])
        self.view = np.repeat(np.arange(len(views)), [len(view.points) for view in views])
        self.n = 12 + scale
        self.size = self.n + (6 * len(views) if prior else 0)

    def unpack(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
        scale = float(np.exp(x[12])) if self.with_scale else 1.0
        each = x[self.n :].reshape(-1, 6) if self.prior else np.zeros((len(self.B), 6))
        return moved(self.X0, x[:6]), moved(self.Z0, x[6:12]), scale, each

    def robot(self, each: np.ndarray) -> np.ndarray:
        if self.prior is None:
            return self.B
        R = self.B[:, :3, :3]
        return np.asarray(pose(R @ rotation_exp(each[:, 3:]), self.B[:, :3, 3] + (R @ each[:, :3, None])[..., 0]))

    def residual(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return residuals (M, 2), px, and their Jacobian (M, 2, n) in the shared parameters.

        With a prior, `own` is then the Jacobian (M, 2, 6) in the correction of each point's view.
        """
        X, Z, scale, each = self.unpack(x)
        B = self.robot(each)
        p = scale * self.points
        q = p @ Z[:3, :3].T + Z[:3, 3]
        Rb = B[self.view, :3, :3]
        w = (Rb @ q[..., None])[..., 0] + B[self.view, :3, 3]
        p_camera = (w - X[:3, 3]) @ X[:3, :3]
        uv, J = slopes(self.camera, p_camera)
        lost = ~np.isfinite(uv).all(-1)
        r = np.where(lost[:, None], PENALTY_PX, uv - self.uv)
        J = np.where(lost[:, None, None], 0.0, J)
        to_camera = J @ X[:3, :3].T
        through = to_camera @ Rb
        parts = [
            -to_camera,
            J @ skew(p_camera) @ _right_jacobian(x[3:6]),
            through,
            -(through @ Z[:3, :3]) @ skew(p) @ _right_jacobian(x[9:12]),
        ]
        if self.with_scale:
            parts.append((through @ Z[:3, :3]) @ p[..., None])
        if self.prior:
            R0 = self.B[self.view, :3, :3]
            turn = np.stack([_right_jacobian(w) for w in each[:, 3:]])[self.view]
            self.own = np.concatenate([to_camera @ R0, -through @ skew(q) @ turn], axis=-1)
        return r, np.concatenate(parts, axis=-1)


def joint_fit(
    camera: Camera,
    B: np.ndarray,
    views: list[View],
    X: np.ndarray,
    Z: np.ndarray,
    *,
    free_scale: bool = False,
    prior: Prior | None = None,
    weights: np.ndarray | None = None,
) -> Fit:
    """Return the fit of camera pose X and board pose Z with the least reprojection error, with a Huber loss (1 px).

    The fit is then repeated with smaller weights for bad views.

    Args:
        camera: The camera; its intrinsics are not changed.
        B: (N, 4, 4) the robot's part of the chain, see `hand_eye.chain`.
        views: N views of the board.
        X: (4, 4) initial pose of the camera T_parent_camera, m.
        Z: (4, 4) initial pose of the board T_other_board, m; see `Fit`.
        free_scale: Whether to fit a factor on the board's lengths too.
        prior: Standard deviation of each robot pose; None: the robot poses are exact.
        weights: (N,) fixed weights of the views; None: weights computed from the residuals.

    Returns:
        The fit; its residuals show whether it is good.
    """
    chain = _Chain(camera, B, views, X, Z, free_scale, prior)
    w = np.ones(len(views)) if weights is None else weights
    x = _solve(chain, np.zeros(chain.size), w)
    if weights is None:
        r, _ = chain.residual(x)
        per_view = _per_view(r, chain.view, len(views))
        # The robot's error shifts all points of a view together, so the weights apply to views, not to points.
        w = np.minimum(1.0, 2.0 * np.median(per_view) / np.maximum(per_view, 1e-12))
        if w.min() < 1.0:
            x = _solve(chain, x, w)
    X, Z, scale, each = chain.unpack(x)
    r, J = chain.residual(x)
    # Huber's loss is linear beyond HUBER_PX: those residuals have a gradient but no curvature.
    scaled = np.abs(r) * w[chain.view, None]
    square = w[chain.view, None] ** 2
    pull = np.minimum(1.0, HUBER_PX / np.maximum(scaled, 1e-12)) * square
    bend = np.where(scaled <= HUBER_PX, square, 0.0)

    def normal(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return _by_view(np.einsum("mki,mk,mkj->mij", a, bend, b), chain.view, len(views))

    def slope(a: np.ndarray) -> np.ndarray:
        return _by_view(np.einsum("mki,mk,mk->mi", a, pull, r), chain.view, len(views))

    H, g = normal(J, J), slope(J)
    if prior is not None:
        # Eliminate each view's own correction: it absorbs a part of the view's information on the shared parameters.
        cross, tight = normal(J, chain.own), _sigmas(prior) ** -2
        share = cross @ np.linalg.inv(normal(chain.own, chain.own) + np.diag(tight))
        H -= share @ np.swapaxes(cross, 1, 2)
        g -= (share @ (each * tight + slope(chain.own))[..., None])[..., 0]
    per_view, total = _per_view(r, chain.view, len(views)), float(np.sqrt((r**2).sum(-1).mean()))
    return Fit(X, Z, scale, per_view, total, H, g, w, each, chain.robot(each))


def _solve(chain: _Chain, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    # These imports are slow, so they wait until the input has been checked.
    from scipy.optimize import least_squares
    from scipy.sparse import bsr_matrix, csr_matrix, diags, hstack, vstack

    row = np.repeat(w[chain.view], 2)
    memory: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}

    def both(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        key = x.tobytes()
        if key not in memory:
            memory.clear()
            memory[key] = chain.residual(x)
        return memory[key]

    def value(x: np.ndarray) -> np.ndarray:
        r = both(x)[0].ravel() * row
        if chain.prior is None:
            return r
        each = x[chain.n :].reshape(-1, 6)
        return np.concatenate([r, (each / _sigmas(chain.prior)).ravel()])

    def jacobian(x: np.ndarray) -> "np.ndarray | csr_matrix":
        J = both(x)[1].reshape(-1, chain.n) * row[:, None]
        if chain.prior is None:
            return J
        N, M = len(chain.B), len(chain.view)
        own = bsr_matrix((chain.own * w[chain.view, None, None], chain.view, np.arange(M + 1)), shape=(2 * M, 6 * N))
        diagonal = np.tile(1 / _sigmas(chain.prior), N)
        lower = hstack([csr_matrix((6 * N, chain.n)), diags(diagonal)])
        return csr_matrix(vstack([hstack([csr_matrix(J), own]), lower]))

    solver = {"loss": "huber", "f_scale": HUBER_PX, "tr_solver": "lsmr" if chain.prior else "exact", "max_nfev": 60}
    tolerances = dict.fromkeys(("xtol", "ftol", "gtol"), 1e-10)
    return np.asarray(least_squares(value, x, jac=jacobian, x_scale="jac", **solver, **tolerances).x)


def _sigmas(prior: Prior) -> np.ndarray:
    return np.array([prior.metres] * 3 + [prior.radians] * 3)


def _per_view(r: np.ndarray, view: np.ndarray, count: int) -> np.ndarray:
    return np.sqrt(np.bincount(view, (r**2).sum(-1), count) / np.bincount(view, minlength=count))


def _by_view(values: np.ndarray, view: np.ndarray, count: int) -> np.ndarray:
    """Return the sum (N, ...) of values (M, ...) over the points of each of N views."""
    total = np.zeros((count, *values.shape[1:]))
    np.add.at(total, view, values)
    return total


def _right_jacobian(w: np.ndarray) -> np.ndarray:
    """Return d(log of exp(w)^-1 exp(w + dw)) / dw at dw = 0, (3, 3)."""
    t = float(np.linalg.norm(w))
    K = np.asarray(skew(w))
    if t < 1e-6:
        return np.eye(3) - K / 2
    return np.eye(3) - (1 - np.cos(t)) / t**2 * K + (t - np.sin(t)) / t**3 * (K @ K)


def leave_out(fit: Fit) -> np.ndarray:
    """Return how the n shared parameters of a fit change, (N, n), when one of its N views is left out, for each view.

    The change is one Gauss-Newton step from the full fit. Close to the optimum the step is exact to second order.
    Refitting N times gives the same standard deviations to 2 %.
    """
    H, g = fit.H.sum(0), fit.g.sum(0)
    rest, slope = H - fit.H, g - fit.g
    damping = 1e-9 * np.trace(H) / len(H) * np.eye(len(H))
    return np.linalg.solve(rest + damping, -slope[..., None])[..., 0]


def jackknife(changes: np.ndarray) -> np.ndarray:
    """Return the covariance (n, n) of n parameters from their changes (N, n) when one of N views is left out."""
    count = len(changes)
    centred = changes - changes.mean(0)
    return np.asarray((count - 1) / count * centred.T @ centred)


def left_out_rms(camera: Camera, views: list[View], fit: Fit, step: np.ndarray) -> np.ndarray:
    """Return the RMS reprojection error (N,), px, of each view if only the other views are fitted.

    The robot pose of the left-out view keeps the correction that the fit of all views gave it.

    Args:
        camera: The camera.
        views: The N views of the fit.
        fit: The fit of all views.
        step: (N, n) result of `leave_out`.
    """
    out = np.empty(len(views))
    for i, view in enumerate(views):
        X, Z = moved(fit.X, step[i, :6]), moved(fit.Z, step[i, 6:12])
        out[i] = rms(camera, invert(X) @ fit.B[i] @ Z, view)
    return out
