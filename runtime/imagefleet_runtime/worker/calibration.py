"""What a request costs, in seconds of the accelerator. Pure.

    megapixels x steps x images x (2 with classifier-free guidance, else 1) x seconds per megapixel-step

Worked example: one 512x512 picture is 0.262144 MP; 20 steps, guided, at 0.011 s:
0.262144 x 20 x 1 x 2 x 0.011 = 0.115 s.

The rate is that of a drawing that has the accelerator for itself; what a batch saves is another matter (throughput).
"""

from __future__ import annotations

import math

from imagefleet_runtime.worker.messages import SizeProfile

# Weight of a new observation. Five in a row bring the rate within 20 % of a true change (0.7 ** 5 = 0.17), if that is
# at most threefold.
NEWEST = 0.3
# An observation counts as at most so many times the rate. A device that stalls for minutes in a drawing of a second
# would else make all larger requests look too long, and be refused, and so never be measured again.
MOST = 3.0
# Enough to tell the cost of a step from the fixed cost around them, and cheap for the largest models.
CALIBRATION_STEPS = 4


def work_units(width: int, height: int, steps: int, images: int, guidance_scale: float) -> float:
    """Megapixel-steps of a request, doubled with classifier-free guidance (``guidance_scale`` over 1)."""
    return width * height / 1e6 * steps * images * (2 if guidance_scale > 1 else 1)


def initial_rate(profile: SizeProfile, units_per_step: float, default_steps: int) -> float | None:
    """Seconds per megapixel-step of the model's default request, from what was measured of its size.

    What is fixed (text encoder, VAE) is spread over the default number of steps, as it will be in most requests:
    (fixed + default_steps x step) / (units_per_step x default_steps). Worked example: 0.1 s fixed and 0.1 s for each
    step of one picture; a default request of 20 steps takes 0.1 + 2.0 = 2.1 s; with 0.5 units a step that is
    2.1 / 10 = 0.21. None where the clock gave nothing usable.
    """
    step = dict(profile.step_seconds).get(1, 0.0)
    return usable((profile.fixed_seconds + default_steps * step) / (units_per_step * default_steps))


def corrected(rate: float | None, seconds: float, units: float) -> float | None:
    """The rate after a request of ``units`` ran ``seconds``: an exponential moving average of what counts.

    Worked examples, from a rate of 1: 1 unit in 2 s gives 1 + 0.3 x (2 - 1) = 1.3; 1 unit in 300 s counts as 3 s and
    gives 1 + 0.3 x (3 - 1) = 1.6.
    """
    return averaged(rate, seconds / units, NEWEST)


def averaged(value: float | None, observed: float, weight: float) -> float | None:
    """``value`` moved towards ``observed``, which counts as at most ``MOST`` times the value; unchanged where
    ``observed`` can be no duration."""
    if usable(observed) is None:
        return value
    return observed if value is None else value + weight * (min(observed, MOST * value) - value)


def usable(rate: float) -> float | None:
    """``rate`` where it can be one; None ("no opinion") for zero, negative, NaN and infinity."""
    return rate if math.isfinite(rate) and rate > 0 else None
