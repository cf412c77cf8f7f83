"""The gradient figure from a real recording: both sides must mean the same names."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import infoplane
from infoplane import plots
from infoplane.hooks import GradientMoments


def test_recorded_gradient_moments_are_drawn(tmp_path):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(64, 3, generator=g)
    y = (x[:, 0] > 0).long()
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with (
        GradientMoments(model, optimizer) as moments,
        infoplane.Recorder(
            model, (x, y), tmp_path / "run", gradients=moments, weight_norms=True, schedule=1, quiet=True
        ) as recorder,
    ):
        for epoch in range(1, 4):
            expected = []
            for rows in torch.arange(64).split(16):
                loss = torch.nn.functional.cross_entropy(model(x[rows]), y[rows])
                optimizer.zero_grad()
                loss.backward()
                expected.append(torch.cat([p.grad.flatten() for p in model[0].parameters()]))
                optimizer.step()
            recorder.snapshot(epoch)
    table = infoplane.analyze(tmp_path / "run", "binning:null_draws=0", progress=False)
    last = table.select(estimator="recorded", layer="0", step=3)
    mean = torch.stack(expected).mean(0).norm().item()
    std = torch.stack(expected).var(0).sum().sqrt().item()
    assert last.select(quantity="gradient_mean_norm").value[0] == pytest.approx(mean, rel=1e-4)
    assert last.select(quantity="gradient_std_norm").value[0] == pytest.approx(std, rel=1e-4)
    ax = plots.snr(table)
    drawn = np.concatenate([np.asarray(line.get_ydata(), float) for line in ax.figure.axes[0].get_lines()])
    assert np.isfinite(drawn).any()
