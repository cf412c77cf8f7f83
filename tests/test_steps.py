"""The step of a file stands in its name: read where it is plain, refused where it is not."""

from __future__ import annotations

from pathlib import PurePath

import numpy as np
import pytest
import torch

from infoplane.core.steps import step_words, steps_of_files, whole_step


@pytest.mark.parametrize(
    ("names", "steps"),
    [
        (["step-0001.npz", "step-0010.npz"], [1, 10]),
        (["step-100_fp16.npz", "step-200_fp16.npz", "step-300_fp16.npz"], [100, 200, 300]),
        (["net2_100.npz", "net2_200.npz"], [100, 200]),
        (["100-of-300.npz", "200-of-300.npz", "300-of-300.npz"], [100, 200, 300]),
        (["step-100_fp16.npz"], [100]),  # a lone file: its word says which
        (["w7.npz"], [7]),
        (["v73-0.mat", "v73-1.mat"], [0, 1]),  # a hyphen that joins is no sign
        (["7-7.npz", "8-8.npz"], [7, 8]),  # twice the same is no question
        (["epoch=3-step=400.pt", "epoch=4-step=500.pt"], [400, 500]),
        (["step-100_loss-2.31.npz", "step-200_loss-1.95.npz"], [100, 200]),
        (["checkpoint-500/acts.npz", "checkpoint-1000/acts.npz"], [500, 1000]),
        (["run3/0100/acts.npz", "run3/0200/acts.npz"], [100, 200]),
        (["warmup_steps=500_step=10.npz"], [10]),
        (["steps100.npz", "steps200.npz"], [100, 200]),
        (["fc1-step-5.npz", "head-step-5.npz"], [5, 5]),
        (["epoch_1.step2", "epoch_1.step3"], [2, 3]),
        (["epoch-1_fp16.npz", "epoch-02_fp32.npz"], [1, 2]),
        (["bert-1e-3_0100.npz", "bert-1e-3_0200.npz"], [100, 200]),
    ],
)
def test_the_number_that_is_meant(names, steps):
    assert steps_of_files([PurePath(name) for name in names]) == steps


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["final.npz"], "'final.npz' tells no step"),
        (["step-100.npz", "final.npz"], "'final.npz' tells no step"),
        (["3-100.npz", "4-200.npz"], "'3-100.npz' does not tell which number is its step, 3 or 100"),
        (["resnet18_fp16.npz"], "18 or 16"),
        (["warmup_steps=500_0100.npz"], "500 or 0100"),
        (["a-1.npz", "b-2.npz"], "'a-1.npz' and 'b-2.npz' do not tell their steps in one way"),
        (["step-900k.npz", "step-1M.npz"], "'step-900k.npz' must be a whole number .* got 900k"),
        (["step_100-a.npz", "step_200-b1.npz", "c9.npz"], "do not tell their steps in one way"),
        (["step-0.5.npz", "step-1.0.npz"], r"'step-0\.5\.npz' must be a whole number from 0 to 2\*\*62, got 0\.5"),
        (["step-1e3.npz", "step-2e3.npz"], "got 1e3"),
        (["step=-1.npz", "step=2.npz"], "got -1"),
        (["a--1.npz", "a--2.npz"], "got -1"),
        (["step-99999999999999999999.npz"], "2\\*\\*62, got 99999999999999999999"),
        (["a1/0100.npz", "a2/0200.npz"], "which number is its step, 1 or 0100"),
        (["step-１００.npz"], "tells no step"),  # digits of another script
    ],
)
def test_no_guesses(names, message):
    with pytest.raises(ValueError, match=message):
        steps_of_files([PurePath(name) for name in names])


@pytest.mark.parametrize(
    "value", [3, 3.0, np.int16(3), np.float32(3), np.array([3]), torch.tensor(3.0), torch.tensor([[3]])]
)
def test_whole_numbers_of_any_kind(value):
    found = whole_step(value)
    assert found == 3
    assert type(found) is int


@pytest.mark.parametrize("value", [2.5, float("nan"), float("inf"), -1, np.float64(-2), 2**63, torch.tensor(0.5)])
def test_other_numbers(value):
    with pytest.raises(ValueError, match="a step must be a whole number from 0"):
        whole_step(value)


@pytest.mark.parametrize("value", [True, None, "3", [3], np.array([1, 2]), torch.tensor([True]), np.array([]), 1j])
def test_no_numbers(value):
    with pytest.raises(TypeError, match="a step must be a whole number from 0"):
        whole_step(value)


@pytest.mark.parametrize(
    ("steps", "words"),
    [([758], "step 758"), ((0, 0), "step 0"), ({3, 1}, "steps 1, 3"), (range(5, 9), "steps 5-8"), ([], "no steps")],
)
def test_one_step_is_no_plural(steps, words):
    assert step_words(steps) == words
