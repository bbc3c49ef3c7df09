"""When previews are due, and what schedulers say of the noiseless picture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from imagefleet_runtime.worker.engine.previews import CleanEstimate, preview_steps


@pytest.mark.parametrize(
    ("previews", "steps", "expected"),
    [
        (2, 20, {7: 0, 13: 1}),
        (1, 4, {2: 0}),
        (3, 4, {1: 0, 2: 1, 3: 2}),
        (3, 2, {1: 0}),
        (3, 1, {}),
        (0, 20, {}),
    ],
)
def test_previews_come_at_equal_distances(previews: int, steps: int, expected: dict[int, int]) -> None:
    assert preview_steps(previews, steps) == expected


@settings(deadline=None)
@given(previews=st.integers(0, 3), steps=st.integers(1, 200))
def test_previews_are_numbered_from_zero_and_none_comes_at_the_end(previews: int, steps: int) -> None:
    found = preview_steps(previews, steps)
    assert list(found.values()) == list(range(len(found)))
    assert len(found) <= previews
    assert all(0 < step < steps for step in found)
    if steps > previews:
        assert len(found) == previews


class _Walk:
    """A scheduler, led by a model that knows the picture: what it is asked about is ``clean`` and ``noise``."""

    def __init__(self, scheduler: Any) -> None:
        torch.manual_seed(1)
        self.scheduler = scheduler
        self.clean, self.noise = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)

    def run(self, steps: int, until: int) -> torch.Tensor | None:
        """The estimate after ``until`` of ``steps``."""
        estimate = CleanEstimate(self.scheduler)
        flow = isinstance(self.scheduler, FlowMatchEulerDiscreteScheduler)
        self.scheduler.set_timesteps(steps)
        sample = self.noise * getattr(self.scheduler, "init_noise_sigma", 1.0)
        for timestep in self.scheduler.timesteps[:until]:
            if not flow:
                self.scheduler.scale_model_input(sample, timestep)
            predicted = self.noise - self.clean if flow else self.noise
            sample = self.scheduler.step(predicted, timestep, sample, return_dict=False)[0]
        return estimate.latents()


def test_flow_matching_gives_the_picture_at_once() -> None:
    """x = (1 - sigma) clean + sigma noise and a model that predicts noise - clean: the estimate is exact."""
    walk = _Walk(FlowMatchEulerDiscreteScheduler())
    for until in (1, 3):
        found = walk.run(4, until)
        assert found is not None
        assert torch.allclose(found, walk.clean, atol=1e-4)


@pytest.mark.parametrize("scheduler", [EulerDiscreteScheduler, DDIMScheduler, DPMSolverMultistepScheduler])
def test_diffusion_schedulers_give_an_estimate(scheduler: Any) -> None:
    found = _Walk(scheduler()).run(6, 2)
    assert found is not None
    assert found.shape == (1, 4, 8, 8)


def test_a_scheduler_that_says_nothing_gives_none() -> None:
    assert _Walk(PNDMScheduler(skip_prk_steps=True)).run(6, 2) is None


def test_a_scheduler_steps_as_before() -> None:
    results = []
    for listened in (True, False):
        scheduler = EulerDiscreteScheduler()
        if listened:
            CleanEstimate(scheduler)
        scheduler.set_timesteps(4)
        sample = torch.ones(1, 4, 8, 8)
        scheduler.scale_model_input(sample, scheduler.timesteps[0])
        results.append(scheduler.step(sample, scheduler.timesteps[0], sample).prev_sample)
    assert torch.equal(*results)
