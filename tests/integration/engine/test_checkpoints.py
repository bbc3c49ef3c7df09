"""A drawing that is interrupted and gone on with in another engine gives the picture that it would have given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_runtime.worker.checkpoint import CheckpointError
from imagefleet_runtime.worker.messages import AdapterUse, Draw

from tests.integration.engine.examples import A_FEW
from tests.integration.engine.limits import EXACT, FAMILIES, OTHER, SAME

if TYPE_CHECKING:
    from imagefleet_runtime.worker.engine.pipeline import Pipeline

SHAPES = Path(__file__).parents[3] / "models" / "shapes-1"
STEPS = 5


def _draws() -> st.SearchStrategy[Draw]:
    from tests.integration.engine.drawing import mask, picture, request

    modes: list[dict[str, Any]] = [
        {},
        {"width": 128},  # where the family knows windows, in windows
        {"image": picture(), "strength": 0.8},
        {"image": picture(), "mask": mask(), "strength": 1.0},
    ]
    return st.builds(
        lambda mode, **fields: request(steps=STEPS, **fields, **mode),
        mode=st.sampled_from(modes),
        guidance_scale=st.sampled_from([1.0, 4.0]),
        seed=st.integers(1, 3),
        adapters=st.sampled_from([(), (AdapterUse("pixel", 0.7),)]),
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_any_family_goes_on_in_another_engine_as_if_nothing_had_happened(
    folder: Callable[[str], Path], tmp_path: Path, family: str
) -> None:
    """Interrupted at any step, twice, in any mode, with an adapter or none."""
    from tests.integration.engine import loras
    from tests.integration.engine.drawing import difference, draw_one, interrupt, load

    loras.write(folder(family), tmp_path, part="denoiser", seed=1)
    first, second = (load(folder(family), adapters={"pixel": str(tmp_path)}) for _ in range(2))

    @A_FEW
    @given(draw=_draws(), stops=st.tuples(st.integers(1, 2), st.integers(0, 1)))
    def check(draw: Draw, stops: tuple[int, int]) -> None:
        undisturbed = draw_one(first, draw)
        once = interrupt(first, draw, stops[0])
        twice = interrupt(second, once, stops[1])
        assert difference(draw_one(first, twice), undisturbed) < EXACT

    check()


@pytest.mark.parametrize(
    ("scheduler", "options"),
    [
        ("EulerAncestralDiscreteScheduler", {}),  # draws noise at each step
        ("LCMScheduler", {}),
        ("KDPM2AncestralDiscreteScheduler", {}),  # asks twice a step
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),  # noise, and a history
        ("UniPCMultistepScheduler", {}),
        ("PNDMScheduler", {}),
    ],
)
def test_any_scheduler_goes_on(
    folder: Callable[[str], Path], scheduler: str, options: dict[str, str]
) -> None:
    import diffusers

    from tests.integration.engine.drawing import difference, draw_one, interrupt, load, request

    first, second = (load(folder("stable_diffusion")) for _ in range(2))
    for pipeline in (first, second):
        kind = getattr(diffusers, scheduler)
        pipeline.pipe.scheduler = kind.from_config(pipeline.pipe.scheduler.config, **options)
    draw = request(steps=6)
    undisturbed = draw_one(first, draw)
    for rounds in range(1, 6):
        assert difference(draw_one(second, interrupt(first, draw, rounds)), undisturbed) < EXACT


def test_a_drawing_goes_on_in_other_company(folder: Callable[[str], Path]) -> None:
    """The shipped model, with pictures of other lengths beside it, before and after."""
    from tests.integration.engine.drawing import difference, draw_one, interrupt, load, request, run

    first, second = load(SHAPES), load(SHAPES)
    draw = request(id=1, steps=16, prompt="a red circle above a blue square on white", guidance_scale=3.0)
    company = [request(id=number, steps=4 * number, prompt="a green star", seed=number) for number in (2, 3)]
    undisturbed = draw_one(first, draw)
    for rounds in (1, 9, 15):
        resumed = interrupt(first, draw, rounds, company)
        drawn = run(second, [company[0], resumed, company[1]])
        assert difference(drawn[1], undisturbed) < SAME
        assert difference(drawn[2], draw_one(second, company[0])) < SAME


def test_what_a_control_net_said_is_not_needed(
    folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.integration.engine.drawing import difference, draw_one, interrupt, load, picture, request

    first, second = (load(folder("control_net")) for _ in range(2))
    draw = request(steps=6, control_image=picture())
    undisturbed = draw_one(first, draw)
    assert difference(undisturbed, draw_one(first, replace(draw, control_scale=0.5))) > OTHER
    guide = next(shared for shared in second.shared if shared.guides)
    asked: list[int] = []
    forward = guide.forward

    def counted(**call: Any) -> Any:
        asked.append(1)
        return forward(**call)

    monkeypatch.setattr(guide, "forward", counted)
    # Each step asks the guide, then the denoiser: a round is one of both.
    for rounds, steps in ((2, 1), (7, 3), (10, 5)):
        asked.clear()
        resumed = interrupt(first, draw, rounds)
        assert difference(draw_one(second, resumed), undisturbed) < EXACT
        assert len(asked) == 1 + 6 - steps, "once for all that was drawn before, and at each step since"


def test_only_what_is_left_is_asked_of_the_model(
    engine: Callable[[str], Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.integration.engine.drawing import count_rows, draw_one, interrupt, request

    pipeline = engine("stable_diffusion")
    draw = request(steps=10)
    resumed = interrupt(pipeline, draw, 7)
    rows = count_rows(pipeline, monkeypatch)
    draw_one(pipeline, resumed)
    assert len(rows) == 3


def test_previews_that_were_sent_are_not_sent_again(engine: Callable[[str], Pipeline]) -> None:
    import torch

    from tests.integration.engine.drawing import finish, interrupt, request

    pipeline, shown = engine("stable_diffusion"), list[int]()
    draw = request(steps=8, previews=3)  # after steps 2, 4 and 6
    resumed = interrupt(pipeline, draw, 4)
    with torch.inference_mode():
        pipeline.start(resumed, lambda index, _pixels: shown.append(index))
    finish(pipeline)
    assert shown == [2]


@pytest.mark.parametrize("name", ["pixart", "cached"])
def test_models_that_may_remember_are_drawn_in_one_go(folder: Callable[[str], Path], name: str) -> None:
    import torch
    from imagefleet_runtime.worker.messages import StepCache

    from tests.integration.engine.drawing import draw_one, finish, load, request

    cached = {"step_cache": StepCache("FirstBlock", 0.5)} if name == "cached" else {}
    pipeline = load(folder("flux" if cached else name), **cached)
    with torch.inference_mode():
        picture = pipeline.start(request(record_bytes=10**9), lambda _index, _pixels: None)
        pipeline.hub.round()
    assert not picture.tape.whole
    finish(pipeline)
    with pytest.raises(CheckpointError, match="in one go"):
        draw_one(pipeline, request(resume=b"anything"))


def test_a_drawing_whose_answers_are_too_much_is_drawn_to_its_end(engine: Callable[[str], Pipeline]) -> None:
    import torch

    from tests.integration.engine.drawing import difference, draw_one, finish, request

    pipeline = engine("stable_diffusion")
    draw = request(steps=4)
    answer = 2 * 4 * 8 * 8 * 4  # bytes: guided, four channels, float32
    whole = []
    with torch.inference_mode():
        picture = pipeline.start(replace(draw, record_bytes=2 * answer), lambda _index, _pixels: None)
        for _ in range(3):
            pipeline.hub.round()
            whole.append(picture.tape.whole)
    assert whole == [True, True, False]
    assert difference(finish(pipeline)[1], draw_one(pipeline, draw)) < EXACT


def _with_answers(change: Callable[[Any], Any]) -> Callable[[bytes], bytes]:
    """A checkpoint's data, its tensors changed."""

    def changed(data: bytes) -> bytes:
        from imagefleet_runtime.worker.checkpoint import metadata_of
        from safetensors.torch import load, save

        return save({name: change(tensor) for name, tensor in load(data).items()}, metadata_of(data))

    return changed


FOREIGN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "of another size": (_with_answers(lambda tensor: tensor[..., :4, :4].contiguous()), "cannot go on"),
    "that fit by chance": (_with_answers(lambda tensor: tensor[:, :1].contiguous()), "another form"),
    "of fewer rows": (_with_answers(lambda tensor: tensor[:1].contiguous()), ""),
    "of another precision": (_with_answers(lambda tensor: tensor.bfloat16()), ""),
    "without numbers": (_with_answers(lambda tensor: tensor[:0].contiguous()), "cannot go on"),
}


@pytest.mark.parametrize(("change", "words"), FOREIGN.values(), ids=FOREIGN)
def test_answers_of_something_else_are_refused_and_harm_nobody(
    engine: Callable[[str], Pipeline], change: Callable[[bytes], bytes], words: str
) -> None:
    from tests.integration.engine.drawing import difference, draw_one, interrupt, request, run

    pipeline = engine("stable_diffusion")
    resumed = interrupt(pipeline, request(steps=6), 3)
    assert resumed.resume is not None
    beside = request(id=2, steps=3)
    ended = run(pipeline, [replace(resumed, resume=change(resumed.resume)), beside])
    assert isinstance(ended[1], CheckpointError), ended[1]
    assert words in str(ended[1])
    assert difference(ended[2], draw_one(pipeline, beside)) < SAME


def test_a_checkpoint_of_more_steps_than_there_are_is_refused(engine: Callable[[str], Pipeline]) -> None:
    from tests.integration.engine.drawing import interrupt, request, run

    pipeline = engine("stable_diffusion")
    resumed = interrupt(pipeline, request(steps=6), 5)
    for steps in (2, 5):
        ended = run(pipeline, [replace(resumed, steps=steps)])
        assert isinstance(ended[1], CheckpointError), ended[1]
