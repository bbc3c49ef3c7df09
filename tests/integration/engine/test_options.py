"""The speed options of a model: what they do on a CPU, and what is refused there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from imagefleet_runtime.worker.messages import AdapterUse, StepCache

from tests.integration.engine.limits import OTHER, SAME

if TYPE_CHECKING:
    from imagefleet_runtime.worker.engine.pipeline import Pipeline

# The largest difference that eight bits for a weight may make.
NEARLY = 0.1
CACHES = [
    StepCache("FirstBlock", 0.5),
    StepCache("FirstBlock"),
    StepCache("TaylorSeer"),
    StepCache("PyramidAttention"),
]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"quantization": "float8-weight-only"},
            "needs a GPU of compute capability 8.9 or newer, and this is a CPU",
        ),
        ({"quantization": "float8-dynamic"}, "use int8-weight-only, or none"),
        ({"quantization": "int4-weight-only"}, "needs a GPU, and this is a CPU"),
        ({"attention": "flash"}, "attention flash needs a GPU"),
        ({"attention": "sage"}, "use native, or auto"),
        ({"attention": "xformers"}, "needs a GPU"),
        (
            {"attention": "quick"},
            "attention quick is not known: it must be one of auto, flash, native, sage, xformers",
        ),
        ({"quantization": "int1"}, "quantization int1 is not known: it must be one of float8-dynamic"),
        ({"compile": "whole"}, "compile whole is not known: it must be one of none, regional"),
        (
            {"dtype": "float64x"},
            "dtype float64x is not known: it must be one of auto, bfloat16, float16, float32",
        ),
    ],
)
def test_what_a_cpu_cannot_do_is_refused_before_any_weight_is_read(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    from imagefleet_runtime.worker.engine.options import UnsupportedOptionError

    from tests.integration.engine.drawing import load

    nothing_to_read = tmp_path / "absent"
    with pytest.raises(UnsupportedOptionError, match=words):
        load(nothing_to_read, **options)


def test_a_pipeline_that_knows_no_step_caches_refuses_them(folder: Callable[[str], Path]) -> None:
    from imagefleet_runtime.worker.engine.options import UnsupportedOptionError

    from tests.integration.engine.drawing import load

    with pytest.raises(
        UnsupportedOptionError, match="UNet2DConditionModel has no enable_cache; leave the option out"
    ):
        load(folder("stable_diffusion"), step_cache=StepCache("FirstBlock"))


@pytest.mark.parametrize("family", ["stable_diffusion", "flux"])
@pytest.mark.parametrize("quantization", ["int8-weight-only", "int8-dynamic"])
def test_a_quantized_model_draws_nearly_the_same_alone_and_in_a_batch(
    folder: Callable[[str], Path], engine: Callable[[str], Pipeline], family: str, quantization: str
) -> None:
    from tests.integration.engine.drawing import difference, draw_one, load, request, run

    pipeline = load(folder(family), quantization=quantization)
    draws = [request(id=number, seed=number, steps=number + 1) for number in (1, 2, 3)]
    drawn = run(pipeline, draws)
    for draw in draws:
        assert difference(drawn[draw.id], draw_one(pipeline, draw)) < SAME
        assert 0 < difference(drawn[draw.id], draw_one(engine(family), draw)) < NEARLY


def test_adapters_work_on_a_quantized_model_and_are_not_quantized(
    folder: Callable[[str], Path], tmp_path: Path
) -> None:
    from tests.integration.engine import loras
    from tests.integration.engine.drawing import difference, draw_one, load, request

    loras.write(folder("flux"), tmp_path / "first", part="denoiser", seed=1)
    adapters = {"first": str(tmp_path / "first")}
    draw = request(adapters=(AdapterUse("first", 1.0),))
    quantized, plain = (
        load(folder("flux"), adapters=adapters, quantization=name) for name in ("int8-weight-only", "none")
    )
    drawn = draw_one(quantized, draw)
    assert difference(drawn, draw_one(quantized, request())) > OTHER
    assert difference(drawn, draw_one(plain, draw)) < NEARLY
    kinds = {name: type(value).__name__ for name, value in quantized.pipe.transformer.named_parameters()}
    assert {kind for name, kind in kinds.items() if "lora_" in name} == {"Parameter"}
    assert {kind for name, kind in kinds.items() if "to_q.base_layer.weight" in name} != {"Parameter"}


@pytest.mark.parametrize("cache", CACHES, ids=lambda cache: f"{cache.type}-{cache.threshold}")
def test_a_step_cache_forgets_each_drawing_when_it_ends(
    folder: Callable[[str], Path], cache: StepCache
) -> None:
    from tests.integration.engine.drawing import draw_one, load, request

    pipeline = load(folder("flux"), step_cache=cache)
    assert not pipeline.capabilities.batches
    draw = request(steps=8, seed=1)
    first = draw_one(pipeline, draw)
    draw_one(pipeline, replace(draw, seed=2, prompt="something else"))
    pipeline.start(replace(draw, id=9, seed=3), lambda _index, _pixels: None)
    for _step in range(3):
        pipeline.hub.round()
    pipeline.hub.cancel(9)
    pipeline.forget_steps()
    assert np.array_equal(draw_one(pipeline, draw), first)


@pytest.mark.parametrize("cache", [CACHES[0], *CACHES[2:]], ids=lambda cache: cache.type)
def test_a_step_cache_skips_work(
    folder: Callable[[str], Path], engine: Callable[[str], Pipeline], cache: StepCache
) -> None:
    from tests.integration.engine.drawing import draw_one, load, request

    draw = request(steps=12)
    cached = draw_one(load(folder("flux"), step_cache=cache), draw)
    assert not np.array_equal(cached, draw_one(engine("flux"), draw))


def test_compiled_blocks_draw_the_same_pictures_and_are_kept_for_the_next_engine(
    folder: Callable[[str], Path],
    engine: Callable[[str], Pipeline],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tests.integration.engine.drawing import difference, load, request, run

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # set back afterwards
    draws = [request(id=number, seed=number, steps=1, guidance_scale=1.0) for number in (1, 2)]
    pipeline = load(folder("stable_diffusion"), compile="regional", cache_dir=str(tmp_path))
    compiled, plain = run(pipeline, draws), run(engine("stable_diffusion"), draws)
    for number in (1, 2):
        assert difference(compiled[number], plain[number]) < SAME
    assert any(path.is_file() for path in (tmp_path / "inductor").rglob("*"))
