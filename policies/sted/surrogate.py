"""Gaussian processes of the objectives: BoTorch models of what the laws leave over, drawn from jointly."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from parfocal.policies.sted.space import Vector

with warnings.catch_warnings():  # these libraries warn of each other's deprecations while they are imported
    warnings.simplefilter("ignore")
    from botorch.exceptions.warnings import BotorchWarning, InputDataWarning, OptimizationWarning
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from gpytorch.constraints import GreaterThan
    from gpytorch.kernels import Kernel, MaternKernel, ScaleKernel
    from gpytorch.likelihoods import FixedNoiseGaussianLikelihood
    from gpytorch.means import ZeroMean
    from gpytorch.mlls import ExactMarginalLogLikelihood
    from gpytorch.priors import LogNormalPrior

OFFSET_SD = {"signal": 1.0, "bleach": 1.2, "resolution": 0.25, "quality": 0.3}
"""How far a dye may lie from the law throughout: a factor of e for signal and bleaching."""
SLOPE_SD = {"signal": 0.3, "bleach": 0.3, "resolution": 0.15, "quality": 0.3}
WIGGLE = {"signal": 0.2, "bleach": 0.25, "resolution": 0.12, "quality": 0.15}
"""Prior median of the standard deviation of what is neither offset nor slope."""
LENGTH = 1.0
LINES_LENGTH = 2.0
MINOR = 0.1
"""Share of the slopes' variance along time and line steps, which matter little at the same dose."""
SCATTER = {"signal": 0.1, "bleach": 0.1, "resolution": 0.05, "quality": 0.03}
"""Prior median of the scatter between fields beyond the known noise."""
JITTERS = (1e-9, 1e-7, 1e-5)


@dataclass
class Surrogate:
    """One objective's model, over features of settings.

    Parameters
    ----------
    model : SingleTaskGP
        Of the residuals from the prior mean.
    """

    model: SingleTaskGP

    def draw(self, points: Vector, count: int, generator: torch.Generator) -> Vector:
        """Draw functions jointly at points (n, d); shape (count, n), without measurement noise."""
        with torch.no_grad():
            mean, spread = self._posterior(torch.from_numpy(points))
            covariance = self._kernel(torch.from_numpy(points)) - spread.T @ spread
            root = _root(covariance)
            normal = torch.randn(count, len(mean), dtype=torch.float64, generator=generator)
            drawn: Vector = (mean + normal @ root.T).numpy()
        return drawn

    def mean(self, points: Vector) -> Vector:
        """Posterior mean at points (n, d)."""
        with torch.no_grad():
            found: Vector = self._posterior(torch.from_numpy(points))[0].numpy()
        return found

    @property
    def scatter_sd(self) -> float:
        """Standard deviation of a field's own value about the mean one, as learned."""
        second = self.model.likelihood.second_noise_covar
        return float(second.noise.detach().sqrt().mean())

    def _posterior(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Mean, and what the measurements take off the prior covariance, as a root.

        Dense algebra: with tens of measurements the lazy one of the library costs several times as much.
        """
        x, y = self.model.train_inputs[0], self.model.train_targets
        noise = self.model.likelihood.noise + self.model.likelihood.second_noise
        gram = torch.linalg.cholesky(self._kernel(x) + torch.diag(noise))
        spread = torch.linalg.solve_triangular(gram, self._kernel(x, points), upper=False)
        whitened = torch.linalg.solve_triangular(gram, y[:, None], upper=False)
        return (spread.T @ whitened)[:, 0], spread

    def _kernel(self, a: Tensor, b: Tensor | None = None) -> Tensor:
        dense: Tensor = self.model.covar_module(a, a if b is None else b).to_dense()
        return dense


def _root(covariance: Tensor) -> Tensor:
    """Cholesky factor of a covariance that rounding may have left a little indefinite."""
    identity = torch.eye(len(covariance), dtype=covariance.dtype)
    for jitter in JITTERS:
        root, failed = torch.linalg.cholesky_ex(covariance + jitter * identity)
        if not int(failed):
            break
    else:
        values, vectors = torch.linalg.eigh(covariance)
        root = vectors * values.clamp(min=0).sqrt()
    found: Tensor = root
    return found


def fit(name: str, points: Vector, residuals: Vector, variances: Vector) -> Surrogate:
    """Fit one objective's model to residuals from its law.

    A law that is off by a factor, a slope that is another, a smooth rest (Matern 5/2, MAP under log-normal priors), and
    scatter between fields beyond each measurement's own noise.

    Parameters
    ----------
    name : str
        The objective; its priors.
    points : ndarray, shape (n, d)
        Features.
    residuals, variances : ndarray, shape (n,)
        Measured value minus law, and the variance of each measurement.
    """
    x, y = torch.from_numpy(points), torch.from_numpy(residuals)[:, None]
    likelihood = FixedNoiseGaussianLikelihood(
        noise=torch.from_numpy(variances),
        learn_additional_noise=True,
        noise_prior=LogNormalPrior(2 * math.log(SCATTER[name]), 1.0),
        noise_constraint=GreaterThan(1e-6, initial_value=SCATTER[name] ** 2),
    )
    with warnings.catch_warnings():
        for category in (BotorchWarning, InputDataWarning, OptimizationWarning, RuntimeWarning, UserWarning):
            warnings.simplefilter("ignore", category)
        model = SingleTaskGP(
            x,
            y,
            likelihood=likelihood,
            covar_module=Residual(name, points.shape[1]).to(torch.float64),
            mean_module=ZeroMean(),
            outcome_transform=None,
        )
        fit_gpytorch_mll(
            ExactMarginalLogLikelihood(model.likelihood, model), optimizer_kwargs={"options": {"maxiter": 60}}
        )
    model.eval()
    return Surrogate(model)


class Residual(Kernel):  # type: ignore[misc]
    """Kernel of what a law leaves over: an offset and slopes of known size, and a smooth rest whose size is fitted.

    Dense: a sum of the library's lazy kernels would be decomposed again at every evaluation.
    """

    has_lengthscale = False

    def __init__(self, name: str, dimensions: int) -> None:
        super().__init__()
        lengths = torch.tensor([LENGTH, LENGTH] + [LINES_LENGTH] * (dimensions - 2), dtype=torch.float64)
        self.smooth = ScaleKernel(
            MaternKernel(
                nu=2.5,
                ard_num_dims=dimensions,
                lengthscale_prior=LogNormalPrior(lengths.log(), torch.full((dimensions,), 0.5, dtype=torch.float64)),
                lengthscale_constraint=GreaterThan(0.1),
            ),
            outputscale_prior=LogNormalPrior(2 * math.log(WIGGLE[name]), 1.0),
            outputscale_constraint=GreaterThan(1e-6),
        )
        self.smooth.base_kernel.lengthscale = lengths
        self.smooth.outputscale = WIGGLE[name] ** 2
        slopes = torch.full((dimensions,), SLOPE_SD[name] ** 2, dtype=torch.float64)
        slopes[2:] *= MINOR
        self.register_buffer("slopes", slopes)
        self.offset = OFFSET_SD[name] ** 2

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **keywords: Any) -> Tensor:
        """Covariance of points, or its diagonal."""
        smooth = self.smooth(x1, x2, diag=diag, **keywords)
        if diag:
            along: Tensor = smooth + self.offset + (x1 * self.slopes * x2).sum(-1)
            return along
        dense: Tensor = smooth.to_dense() + self.offset + (x1 * self.slopes) @ x2.mT
        return dense


def names_of(data: Sequence[Mapping[str, tuple[float, float]]]) -> list[str]:
    """Return the objectives that at least one trial has."""
    return [name for name in OFFSET_SD if any(name in told for told in data)]
