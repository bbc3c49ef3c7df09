"""LoRA adapters: used by the requests that name them, and by no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_runtime.worker.messages import AdapterUse, Draw

from tests.integration.engine.examples import A_FEW
from tests.integration.engine.limits import OTHER, SAME

if TYPE_CHECKING:
    from imagefleet_runtime.worker.engine.pipeline import Pipeline

    from tests.integration.engine.bare import Bare

USES = (
    (),
    (AdapterUse("first", 1.0),),
    (AdapterUse("second", 0.7),),
    (AdapterUse("first", 0.3), AdapterUse("second", 1.0)),
)


@pytest.fixture(scope="module", params=["stable_diffusion", "flux"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def adapters(
    family: str, folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """The folders of the adapters ``first`` and ``second``, and for Stable Diffusion ``words``, of its text encoder."""
    from tests.integration.engine import loras

    root = tmp_path_factory.mktemp("adapters")
    parts = {"first": "denoiser", "second": "denoiser"}
    if family == "stable_diffusion":
        parts["words"] = "text"
    for seed, (name, part) in enumerate(parts.items()):
        loras.write(folder(family), root / name, part=part, seed=seed)
    return {name: str(root / name) for name in parts}


@pytest.fixture(scope="module")
def adapted(family: str, folder: Callable[[str], Path], adapters: dict[str, str]) -> Pipeline:
    from tests.integration.engine.drawing import load

    return load(folder(family), adapters=adapters)


def _alone(pipeline: Pipeline, drawn: dict[Draw, Any], draw: Draw) -> Any:
    from tests.integration.engine.drawing import draw_one

    draw = replace(draw, id=0)
    if draw not in drawn:
        drawn[draw] = draw_one(pipeline, draw)
    return drawn[draw]


def test_adapters_never_leak_into_other_drawings(
    adapted: Pipeline, bare: Callable[[str], Bare], family: str
) -> None:
    from tests.integration.engine.drawing import difference, finish, request

    drawn_alone: dict[Draw, Any] = {}
    draws = st.lists(
        st.builds(request, adapters=st.sampled_from(USES), seed=st.integers(1, 2), steps=st.integers(2, 4)),
        min_size=2,
        max_size=5,
    )

    @A_FEW
    @given(draws=draws)
    def check(draws: list[Draw]) -> None:
        ended = {}
        for number, draw in enumerate(draws, start=1):  # each joins one round after the one before it
            adapted.start(replace(draw, id=number), lambda _index, _pixels: None)
            ended.update({one.id: pixels for one, pixels in adapted.hub.round().results})
        ended |= finish(adapted)
        for number, draw in enumerate(draws, start=1):
            assert difference(ended[number], _alone(adapted, drawn_alone, draw)) < SAME
            if not draw.adapters:
                assert difference(ended[number], bare(family).draw(replace(draw, id=0))) < SAME

    check()


def test_each_adapter_and_scale_draws_another_picture(adapted: Pipeline) -> None:
    from tests.integration.engine.drawing import difference, draw_one, request

    uses = [*USES, (AdapterUse("first", 0.5),)]
    drawn = [draw_one(adapted, request(adapters=use)) for use in uses]
    for index, one in enumerate(drawn):
        for other in drawn[index + 1 :]:
            assert difference(one, other) > OTHER


@pytest.mark.parametrize(("name", "scale"), [("second", 0.7), ("words", 1.5)])
def test_an_adapter_draws_what_bare_diffusers_draws_with_it(
    adapted: Pipeline,
    adapters: dict[str, str],
    bare: Callable[[str], Bare],
    folder: Callable[[str], Path],
    family: str,
    name: str,
    scale: float,
) -> None:
    from tests.integration.engine.bare import Bare
    from tests.integration.engine.drawing import difference, draw_one, request

    if name not in adapters:
        name = "first"
    reference = Bare(folder(family))
    reference.pipe.load_lora_weights(adapters[name], adapter_name=name)
    reference.pipe.set_adapters([name], [scale])
    expected = reference.draw(request())
    drawn = draw_one(adapted, request(adapters=(AdapterUse(name, scale),)))
    assert difference(drawn, expected) < SAME
    assert difference(expected, bare(family).draw(request())) > OTHER


def test_an_adapter_of_scale_zero_changes_nothing(adapted: Pipeline) -> None:
    from tests.integration.engine.drawing import difference, draw_one, request

    plain, off = (draw_one(adapted, request(adapters=use)) for use in ((), (AdapterUse("first", 0.0),)))
    assert difference(plain, off) < SAME


def test_adapters_that_do_not_fit_are_refused_and_say_why(
    folder: Callable[[str], Path], tmp_path: Path
) -> None:
    from imagefleet_runtime.worker.engine.adapters import AdapterError

    from tests.integration.engine import loras
    from tests.integration.engine.drawing import load

    loras.write(folder("flux"), tmp_path / "flux", part="denoiser", seed=1)
    loras.write_foreign(tmp_path / "foreign")
    (tmp_path / "empty").mkdir()
    cases = [
        ("stable_diffusion", "flux", "adapter 'flux'"),
        ("stable_diffusion", "foreign", "adapter 'foreign'"),
        ("flux", "foreign", "adapter 'foreign'"),
        ("flux", "empty", "holds 0 .safetensors files; it must hold one"),
        ("pixart", "flux", "PixArtSigmaPipeline takes no LoRA adapters"),
    ]
    for family, name, words in cases:
        with pytest.raises(AdapterError, match=words):
            load(folder(family), adapters={name: str(tmp_path / name)})
