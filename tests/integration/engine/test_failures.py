"""Drawings that fail, and those beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.engine.limits import SAME

if TYPE_CHECKING:
    from imagefleet_runtime.worker.engine.pipeline import Pipeline

    from tests.integration.engine.bare import Bare

POISON = "poison"


class Faulty:
    """Stands before the denoiser's own ``forward``, and fails where ``fails`` says so of its arguments."""

    def __init__(self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
        from tests.integration.engine.drawing import denoiser_of

        self.fails: Callable[[dict[str, Any]], Exception | None] = lambda _arguments: None
        self.rows: list[int] = []  # of each call that succeeded
        shared = denoiser_of(pipeline)
        forward, layout = shared.forward, shared.layout
        assert layout is not None

        def call(**arguments: Any) -> Any:
            error = self.fails(arguments)
            if error is not None:
                raise error
            self.rows.append(len(arguments[layout.primary]))
            return forward(**arguments)

        monkeypatch.setattr(shared, "forward", call)
        monkeypatch.setattr(pipeline.hub, "_largest", {})


@pytest.fixture
def pipeline(engine: Callable[[str], Pipeline]) -> Pipeline:
    return engine("stable_diffusion")


@pytest.fixture
def faulty(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    yield Faulty(pipeline, monkeypatch)
    assert len(pipeline.hub) == 0


def _draws(count: int = 4) -> list[Any]:
    from tests.integration.engine.drawing import request

    return [request(id=number, seed=number, steps=3, guidance_scale=1.0) for number in range(count)]


def test_a_batch_that_is_out_of_memory_is_drawn_in_parts_from_then_on(
    pipeline: Pipeline, faulty: Faulty, bare: Callable[[str], Bare]
) -> None:
    import torch

    from tests.integration.engine.drawing import difference, run

    faulty.fails = lambda call: torch.OutOfMemoryError("no") if len(call["sample"]) > 2 else None
    draws = _draws()
    drawn = run(pipeline, draws)
    for draw in draws:
        assert difference(drawn[draw.id], bare("stable_diffusion").draw(draw)) < SAME
    assert faulty.rows == [1, 1, 1, 1, 2, 2, 2, 2]


def test_only_the_drawing_that_is_out_of_memory_alone_fails(
    pipeline: Pipeline, faulty: Faulty, bare: Callable[[str], Bare]
) -> None:
    import torch

    from tests.integration.engine.drawing import difference, request, run

    # Guided drawings have two rows.
    faulty.fails = lambda call: torch.OutOfMemoryError("no") if len(call["sample"]) > 1 else None
    draws = [*_draws(2), request(id=9, guidance_scale=5.0)]
    drawn = run(pipeline, draws)
    assert isinstance(drawn[9], torch.OutOfMemoryError)
    for draw in draws[:2]:
        assert difference(drawn[draw.id], bare("stable_diffusion").draw(draw)) < SAME


def test_memory_of_a_failed_batch_is_not_held_while_its_parts_are_drawn(
    pipeline: Pipeline, faulty: Faulty
) -> None:
    import gc
    import weakref

    import torch

    from tests.integration.engine.drawing import run

    held: list[weakref.ref[torch.Tensor]] = []
    seen: list[bool] = []

    def fail(call: dict[str, Any]) -> Exception | None:
        if len(call["sample"]) == 1:
            gc.collect()
            seen.append(any(one() is not None for one in held))
            return None
        held.append(weakref.ref(call["sample"]))
        return torch.OutOfMemoryError("no")

    faulty.fails = fail
    run(pipeline, _draws(2))
    assert seen
    assert not any(seen)


def test_a_poisoned_drawing_fails_alone(
    pipeline: Pipeline, faulty: Faulty, bare: Callable[[str], Bare]
) -> None:
    from dataclasses import replace

    from tests.integration.engine.drawing import difference, finish, request

    draws = _draws()
    poisoned = request(id=9, steps=3, guidance_scale=1.0, prompt=POISON)
    for draw in [*draws[:2], poisoned, *draws[2:]]:
        pipeline.start(draw, lambda _index, _pixels: None)
    sick = next(one for one in pipeline.hub if one.id == 9).call
    assert sick is not None
    words = sick.arguments["encoder_hidden_states"]
    faulty.fails = lambda call: (
        ValueError("poison") if (call["encoder_hidden_states"] == words).flatten(1).all(1).any() else None
    )
    drawn = finish(pipeline)
    assert isinstance(drawn[9], ValueError)
    for draw in draws:
        assert difference(drawn[draw.id], bare("stable_diffusion").draw(replace(draw))) < SAME


def test_a_drawing_that_fails_outside_of_its_steps_fails_alone(
    pipeline: Pipeline, bare: Callable[[str], Bare], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.integration.engine.drawing import difference, run

    decode, calls = pipeline.pipe.vae.decode, []

    def fail_once(*arguments: Any, **keywords: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("the decoder failed")
        return decode(*arguments, **keywords)

    monkeypatch.setattr(pipeline.pipe.vae, "decode", fail_once)
    draws = _draws()
    drawn = run(pipeline, draws)
    failed = [number for number, one in drawn.items() if isinstance(one, Exception)]
    assert failed == [1]
    for draw in draws:
        if draw.id not in failed:
            assert difference(drawn[draw.id], bare("stable_diffusion").draw(draw)) < SAME


def test_a_size_that_cannot_be_drawn_is_refused_while_others_go_on(
    pipeline: Pipeline, bare: Callable[[str], Bare]
) -> None:
    from tests.integration.engine.drawing import difference, request, run

    good, bad = request(id=1), request(id=2, width=65)
    drawn = run(pipeline, [good, bad])
    assert isinstance(drawn[2], ValueError)
    assert difference(drawn[1], bare("stable_diffusion").draw(good)) < SAME


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            MemoryError(),
            "out_of_memory",
            "not enough memory for this request; ask for fewer pixels or images",
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out_of_memory", None),
        (
            ValueError("no token for a secret\ncastle and blue; try others"),
            "generation_failed",
            "ValueError: no token for ... and ...; try others",
        ),
        (ValueError(), "generation_failed", "ValueError: no message"),
        (ValueError("x" * 1_000), "generation_failed", "ValueError: " + "x" * 300),
    ],
)
def test_a_failure_says_nothing_of_the_prompts(error: Exception, code: str, message: str | None) -> None:
    from imagefleet_runtime.worker.engine.failures import failure

    found = failure(7, error, "a secret\ncastle", "blue", "")
    assert (found.id, found.code) == (7, code)
    assert message in (None, found.message)
