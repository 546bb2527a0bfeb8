"""Measures of an image against a reference: PSNR, SSIM and Pearson correlation, of batches."""

from __future__ import annotations

import functools
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import conv2d

from parfocal.models.base import ImageError
from parfocal.models.metrics.rings import image_batch

SSIM_SIGMA_PX = 1.5
SSIM_RADIUS_PX = 5
_K1, _K2 = 0.01, 0.03

Images = NDArray[Any] | Tensor


def psnr(reference: Images, images: Images, data_range: float | Tensor) -> Tensor:
    """Peak signal-to-noise ratio, ``10 log10(data_range^2 / mean((reference - image)^2))``, dB, shape (n,).

    Parameters
    ----------
    reference, images : ndarray or Tensor, shape (height, width) or (n, height, width)
    data_range : float or Tensor of shape (n,)
        Distance of the smallest from the largest possible count. Say it: images of floats do not know theirs.

    Returns
    -------
    Tensor of float64, shape (n,)
        inf for equal images.

    Raises
    ------
    parfocal.models.base.ImageError
        No batch of images, two of different shapes, or a range that is not positive.
    """
    first, second = _pair(reference, images)
    span = _span(data_range, first)
    return 10 * torch.log10(span.square() / (first - second).square().mean((1, 2)))


def ssim(reference: Images, images: Images, data_range: float | Tensor) -> Tensor:
    """Structural similarity (Wang 2004): Gaussian window of 1.5 px cut at 5 px, K1 0.01, K2 0.03, population moments.

    The same as scikit-image's `structural_similarity` with ``gaussian_weights=True`` and
    ``use_sample_covariance=False``: the mean over the image without a border of 5 px.

    Parameters
    ----------
    reference, images : ndarray or Tensor, shape (height, width) or (n, height, width)
    data_range : float or Tensor of shape (n,)
        Distance of the smallest from the largest possible count.

    Returns
    -------
    Tensor of float64, shape (n,)

    Raises
    ------
    parfocal.models.base.ImageError
        No batch of images, two of different shapes, or a range that is not positive.
    """
    x, y = _pair(reference, images)
    span = _span(data_range, x)[:, None, None]
    mean_x, mean_y = _blur(x), _blur(y)
    var_x = _blur(x * x) - mean_x.square()
    var_y = _blur(y * y) - mean_y.square()
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = (_K1 * span).square(), (_K2 * span).square()
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    bottom = (mean_x.square() + mean_y.square() + c1) * (var_x + var_y + c2)
    return (top / bottom).mean((1, 2))


def pcc(reference: Images, images: Images) -> Tensor:
    """Pearson correlation of the pixels, float64, shape (n,); NaN where one of the two is constant.

    Parameters
    ----------
    reference, images : ndarray or Tensor, shape (height, width) or (n, height, width)

    Raises
    ------
    parfocal.models.base.ImageError
        No batch of images, or two of different shapes.
    """
    first, second = (each - each.mean((1, 2), keepdim=True) for each in _pair(reference, images))
    norms = first.square().sum((1, 2)).sqrt() * second.square().sum((1, 2)).sqrt()
    return (first * second).sum((1, 2)) / norms


def _pair(reference: Images, images: Images) -> tuple[Tensor, Tensor]:
    first, second = image_batch(reference), image_batch(images)
    if first.shape != second.shape:
        raise ImageError(f"reference {tuple(first.shape)} and images {tuple(second.shape)} are not of the same shape")
    return first.to(torch.float64), second.to(torch.float64)


def _span(data_range: float | Tensor, like: Tensor) -> Tensor:
    span = torch.as_tensor(data_range, dtype=torch.float64, device=like.device).expand(len(like))
    if not bool((span > 0).all()):
        raise ImageError(f"the data range must be positive (got {data_range})")
    return span


def _blur(planes: Tensor) -> Tensor:
    """Gaussian mean of (n, h, w) where the window lies inside: (n, h - 10, w - 10)."""
    weights = _weights(planes.device)
    down = conv2d(planes[:, None], weights[None, None, :, None])
    return conv2d(down, weights[None, None, None, :])[:, 0]


@functools.lru_cache(maxsize=4)
def _weights(device: torch.device) -> Tensor:
    # Kept for all: made in inference mode it could not serve a loss later.
    with torch.inference_mode(False):
        at = torch.arange(-SSIM_RADIUS_PX, SSIM_RADIUS_PX + 1, dtype=torch.float64, device=device)
        weights = torch.exp(-0.5 * (at / SSIM_SIGMA_PX).square())
        return weights / weights.sum()
