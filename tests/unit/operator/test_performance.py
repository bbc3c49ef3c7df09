"""What workers measured, as a status tells it."""

from dataclasses import replace

import pytest
from imagefleet_operator.plan.performance import performances
from imagefleet_operator.plan.types import Copy, Json, ModelReport, SizeReport

from tests.unit.operator.make import holding

NAME = "NVIDIA-H200"


def measured(step: float | None = None, load: float | None = None, memory: int | None = None) -> Copy:
    report = ModelReport("m", "Resident", True, "", "", "", memory, step, load)
    return Copy(True, report, NAME)


def of_sizes(*sizes: SizeReport, modes: tuple[str, ...] = ()) -> Copy:
    return Copy(True, holding("m", sizes=sizes, modes=modes), NAME)


@pytest.mark.parametrize(
    ("old", "copies", "want"),
    [
        pytest.param([], [measured(None)], [], id="nothing measured"),
        pytest.param(
            [],
            [measured(0.0111, 1.71, 7838315315), measured(0.0119), measured(0.5)],
            [
                {
                    "accelerator": NAME,
                    "secondsPerMegapixelStep": 0.012,
                    "loadSeconds": 1.7,
                    "memory": "7.3Gi",
                }
            ],
            id="medians",
        ),
        pytest.param(
            [{"accelerator": NAME, "secondsPerMegapixelStep": 0.012}],
            [measured(0.0125)],
            [{"accelerator": NAME, "secondsPerMegapixelStep": 0.012}],
            id="noise",
        ),
        pytest.param(
            [{"accelerator": "cpu", "loadSeconds": 3.0}],
            [measured(0.02)],
            [
                {"accelerator": NAME, "secondsPerMegapixelStep": 0.02},
                {"accelerator": "cpu", "loadSeconds": 3.0},
            ],
            id="what nobody measures now stays",
        ),
        pytest.param(
            [],
            [
                of_sizes(SizeReport("512x512", 4, 0.051), SizeReport("64x64", 8), modes=("inpainting",)),
                of_sizes(SizeReport("512x512", 2, 0.049), modes=("text-to-image",)),
            ],
            [
                {
                    "accelerator": NAME,
                    "modes": ["inpainting", "text-to-image"],
                    "sizes": [
                        {"size": "64x64", "maxBatch": 8},
                        {"size": "512x512", "maxBatch": 3, "secondsPerStep": 0.05},
                    ],
                }
            ],
            id="sizes and modes",
        ),
        pytest.param(
            [{"accelerator": NAME, "sizes": [{"size": "64x64", "maxBatch": 8, "secondsPerStep": 0.05}]}],
            [of_sizes(SizeReport("64x64", 8, 0.052))],
            [{"accelerator": NAME, "sizes": [{"size": "64x64", "maxBatch": 8, "secondsPerStep": 0.05}]}],
            id="noise of a size",
        ),
        pytest.param(
            [{"accelerator": NAME, "modes": ["inpainting"], "sizes": [{"size": "64x64", "maxBatch": 8}]}],
            [of_sizes()],
            [{"accelerator": NAME, "modes": ["inpainting"], "sizes": [{"size": "64x64", "maxBatch": 8}]}],
            id="a worker that has not measured yet has no opinion",
        ),
        pytest.param(
            [{"accelerator": NAME, "sizes": [{"size": "64x64", "maxBatch": 8}]}],
            [of_sizes(SizeReport("96x96", 2))],
            [{"accelerator": NAME, "sizes": [{"size": "96x96", "maxBatch": 2}]}],
            id="a size that no worker reports any more",
        ),
    ],
)
def test_performance(old: list[Json], copies: list[Copy], want: list[Json]) -> None:
    assert performances(old, copies) == want
    assert performances(want, copies) == want


def test_what_an_accelerator_cannot_do_is_no_longer_told_when_nobody_has_tried_since() -> None:
    told = [{"accelerator": NAME, "unsupported": "no fp8."}]
    absent = replace(holding("m", "Absent"), pinned=False)
    assert performances(told, [Copy(False, absent, NAME)]) == []
    assert performances(told, []) == told
