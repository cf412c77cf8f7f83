"""Two regression problems of ten inputs, and the CS-QMI that the bottleneck adds to their loss."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

try:
    from sklearn.datasets import load_diabetes
except ModuleNotFoundError:
    print("the diabetes data come with scikit-learn: pip install 'infoplane[test]'")
    raise SystemExit(2) from None

Problem = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def diabetes() -> Problem:
    """442 patients: ten measurements, and how far the illness had moved a year later."""
    x, y = load_diabetes(return_X_y=True)
    return x, y


def friedman(samples: int = 442) -> Problem:
    """The first problem of Friedman (1991): ten uniform inputs, y of five of them, three not linearly, and noise."""
    rng = np.random.default_rng(0)
    x = rng.random((samples, 10))
    y = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    return x, y + rng.standard_normal(samples)


def kernel(a: torch.Tensor) -> torch.Tensor:
    half = 0.5 * a.square().sum(-1, keepdim=True)
    return torch.exp(a @ a.mT - half - half.mT)


def cs_qmi(k: torch.Tensor, m: torch.Tensor) -> torch.Tensor:  # of kernels (members, N, N), with a gradient
    cross = (k.mean(-1) * m.mean(-1)).mean(-1)
    return ((k * m).mean((-1, -2)) * k.mean((-1, -2)) * m.mean((-1, -2)) / cross.square()).log2()
