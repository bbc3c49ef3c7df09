"""The engine's process, driven over its pipe as the supervisor drives it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imagefleet_runtime.worker import messages

SECONDS = 120  # before the engine counts as hung


class Engine:
    """A forked engine, and the messages that it has sent."""

    def __init__(self, order: Any) -> None:
        from imagefleet_runtime.worker import engine

        ours, theirs = multiprocessing.Pipe()
        # As the importer does: from a process that has imported torch.
        self.process = multiprocessing.get_context("fork").Process(
            target=_main, args=(engine.main, ours, theirs), daemon=True
        )
        self.process.start()
        theirs.close()
        self.connection = ours
        self.connection.send(order)
        self.seen: list[Any] = []

    def next(self) -> Any:
        assert self.connection.poll(SECONDS), "the engine is silent"
        self.seen.append(self.connection.recv())
        return self.seen[-1]

    def until(self, kind: type, count: int = 1) -> list[Any]:
        """All messages up to the one that is the ``count``-th of ``kind``, counted from now."""
        start, left = len(self.seen), count
        while left:
            left -= isinstance(self.next(), kind)
        return self.seen[start:]

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _main(main: Callable[[Connection], None], ours: Connection, theirs: Connection) -> None:
    ours.close()  # else the engine would hold its own pipe open
    main(theirs)


@pytest.fixture
def start(folder: Callable[[str], Path]) -> Iterator[Callable[..., Engine]]:
    from tests.integration.engine.drawing import order

    engines: list[Engine] = []

    def begin(name: str = "stable_diffusion", **fields: Any) -> Engine:
        engines.append(Engine(order(folder(name), **fields)))
        return engines[-1]

    yield begin
    for engine in engines:
        engine.kill()


@pytest.fixture
def loaded(start: Callable[..., Engine]) -> Engine:
    engine = start()
    engine.until(messages.Loaded)
    return engine


def test_a_load_tells_its_stages_and_what_it_measured(start: Callable[..., Engine]) -> None:
    warmth = messages.Warmth(
        ((64, 64), (96, 64)), steps=2, guidance_scale=5.0, max_batch=4, memory_bytes=None
    )
    *stages, loaded = start(warmth=warmth).until(messages.Loaded)
    assert [stage.name for stage in stages] == ["weights", "options", "warm"]
    assert all(stage.seconds >= 0 for stage in stages)
    assert [(profile.width, profile.height) for profile in loaded.profiles] == [(64, 64), (96, 64)]
    for profile in loaded.profiles:
        batches = [batch for batch, _seconds in profile.step_seconds]
        assert batches[:2] == [1, 2]
        assert [batch for batch, _bytes in profile.peak_bytes] == batches
        assert all(seconds > 0 for _batch, seconds in profile.step_seconds)
    assert loaded.weights_bytes > 0


def test_drawings_come_back_with_their_phases_and_share_of_the_work(loaded: Engine) -> None:
    from tests.integration.engine.drawing import opened, request

    for number in (1, 2, 3):
        loaded.connection.send(request(id=number, steps=number * 2, previews=1, width=96))
    told = loaded.until(messages.Drawn, 3)
    drawn = {message.id: message for message in told if isinstance(message, messages.Drawn)}
    assert set(drawn) == {1, 2, 3}
    for message in drawn.values():
        assert opened(message.image).shape == (64, 96, 3)
        assert [phase.name for phase in message.phases] == ["text_encode", "denoise", "decode", "encode"]
        assert all(
            before.ended_ns == after.started_ns
            for before, after in zip(message.phases, message.phases[1:], strict=False)
        )
        assert 0 < message.work_seconds <= message.seconds
        assert message.peak_bytes is not None
        assert message.peak_bytes > 0
    previews = [message.id for message in told if isinstance(message, messages.Preview)]
    assert sorted(previews) == [1, 2, 3]
    ends = [message.id for message in told if isinstance(message, messages.Preview | messages.Drawn)]
    assert all(ends.index(number) < len(ends) - 1 - ends[::-1].index(number) for number in (1, 2, 3))


def test_steps_are_told_with_how_far_each_drawing_is(loaded: Engine) -> None:
    from tests.integration.engine.drawing import request

    loaded.connection.send(request(id=1, steps=80))
    steps = [message for message in loaded.until(messages.Drawn) if isinstance(message, messages.Step)]
    done = [step.done[1] for step in steps]
    assert done == sorted(done)
    assert 0 < done[0] < done[-1] <= 1
    assert all(
        (step.width, step.height) == (64, 64) and step.seconds > 0 and step.rounds > 0 for step in steps
    )


def test_a_cancelled_drawing_ends_at_its_next_step_and_no_other_does(loaded: Engine) -> None:
    from tests.integration.engine.drawing import opened, request

    loaded.connection.send(request(id=1, steps=4, seed=7))
    alone = opened(loaded.until(messages.Drawn)[-1].image)
    loaded.connection.send(request(id=2, steps=1_000))
    loaded.until(messages.Step)
    loaded.connection.send(request(id=3, steps=4, seed=7))
    loaded.connection.send(messages.Cancel(2))
    told = [
        message for message in (loaded.until(messages.Cancelled)) if not isinstance(message, messages.Step)
    ]
    rest = (
        [] if any(isinstance(message, messages.Drawn) for message in told) else loaded.until(messages.Drawn)
    )
    drawn = next(message for message in [*told, *rest] if isinstance(message, messages.Drawn))
    assert drawn.id == 3
    assert np.abs(opened(drawn.image).astype(int) - alone).max() <= 1  # of 255: rounding
    assert next(message for message in told if isinstance(message, messages.Cancelled)).id == 2


def test_a_cancel_without_a_drawing_is_without_effect(loaded: Engine) -> None:
    from tests.integration.engine.drawing import request

    loaded.connection.send(messages.Cancel(5))
    loaded.connection.send(request(id=1))
    loaded.until(messages.Drawn)
    loaded.connection.send(messages.Cancel(1))
    loaded.connection.send(request(id=2))
    assert loaded.until(messages.Drawn)[-1].id == 2


def test_a_drawing_that_fails_is_told_without_its_prompt_and_the_engine_lives(loaded: Engine) -> None:
    from tests.integration.engine.drawing import request

    loaded.connection.send(request(id=1, prompt="secret", width=65))
    failed = loaded.until(messages.Failed)[-1]
    assert (failed.id, failed.code) == (1, "generation_failed")
    assert "65" in failed.message
    assert "secret" not in failed.message
    loaded.connection.send(request(id=2))
    assert loaded.until(messages.Drawn)[-1].id == 2


def test_a_model_that_cannot_share_steps_draws_one_picture_after_the_other(
    start: Callable[..., Engine],
) -> None:
    from tests.integration.engine.drawing import request

    engine = start("flux", step_cache=messages.StepCache("FirstBlock", 0.5))
    engine.until(messages.Loaded)
    for number in (1, 2, 3, 4):
        engine.connection.send(request(id=number, steps=20))
    engine.connection.send(messages.Cancel(3))
    told = engine.until(messages.Drawn, 3)
    assert [message.id for message in told if isinstance(message, messages.Drawn)] == [1, 2, 4]
    assert [message.id for message in told if isinstance(message, messages.Cancelled)] == [3]
    assert all(len(message.done) == 1 for message in told if isinstance(message, messages.Step))


@pytest.mark.parametrize(
    ("fields", "reason", "words"),
    [
        ({"quantization": "float8-dynamic"}, "OptionUnsupported", "needs a GPU"),
        ({"adapters": {"pixel": "/nowhere"}}, "AdapterInvalid", "adapter 'pixel'"),
        ({"class_name": "NoSuchPipeline"}, "LoadFailed", "has no pipeline NoSuchPipeline"),
        ({"name": "broken"}, "LoadFailed", "not numbers"),
    ],
)
def test_a_load_that_fails_says_why_and_the_process_ends(
    start: Callable[..., Engine], fields: dict[str, Any], reason: str, words: str
) -> None:
    engine = start(**fields)
    failed = engine.until(messages.LoadFailed)[-1]
    assert failed.reason == reason
    assert words in failed.message
    engine.process.join(SECONDS)
    assert engine.process.exitcode == 0


def test_an_engine_ends_when_its_supervisor_is_gone(loaded: Engine) -> None:
    from tests.integration.engine.drawing import request

    loaded.connection.send(request(id=1, steps=1_000))
    loaded.until(messages.Step)
    loaded.connection.close()
    loaded.process.join(SECONDS)
    assert loaded.process.exitcode == 0


def test_larger_pictures_need_more_memory(start: Callable[..., Engine]) -> None:
    warmth = messages.Warmth(
        ((64, 64), (192, 192)), steps=2, guidance_scale=5.0, max_batch=1, memory_bytes=None
    )
    small, large = start(warmth=warmth).until(messages.Loaded)[-1].profiles
    assert dict(large.peak_bytes)[1] > dict(small.peak_bytes)[1]


RECORD_BYTES = 10**6


def _picture(engine: Engine, identifier: int) -> bytes:
    """The picture of a drawing, which is under way."""
    drawn = [message for message in engine.until(messages.Drawn) if isinstance(message, messages.Drawn)]
    assert [message.id for message in drawn] == [identifier]
    return bytes(drawn[0].image)


def test_an_interrupted_drawing_goes_on_in_another_process(start: Callable[..., Engine]) -> None:
    from tests.integration.engine.drawing import request

    engines = [start(), start()]
    for engine in engines:
        engine.until(messages.Loaded)
    engine, other = engines
    engine.connection.send(request(id=1, steps=300))
    undisturbed = _picture(engine, 1)
    engine.connection.send(request(id=2, steps=300, record_bytes=RECORD_BYTES))
    engine.until(messages.Step)
    engine.connection.send(messages.Interrupt(2))
    stopped = engine.until(messages.Checkpoint)[-1]
    assert 0 < stopped.steps < 300
    other.connection.send(request(id=3, steps=300, resume=stopped.data))
    told = other.until(messages.Drawn)
    assert min(step.done[3] for step in told if isinstance(step, messages.Step)) > stopped.steps / 300
    assert told[-1].image == undisturbed


def test_what_cannot_be_interrupted_is_drawn_to_its_end(loaded: Engine) -> None:
    from tests.integration.engine.drawing import request

    loaded.connection.send(request(id=1, steps=100))
    loaded.until(messages.Step)
    loaded.connection.send(messages.Interrupt(1))
    assert _picture(loaded, 1)


def test_a_broken_checkpoint_fails_its_drawing_and_no_other(loaded: Engine) -> None:
    from tests.integration.engine.drawing import request

    loaded.connection.send(request(id=1, resume=b"no tape"))
    loaded.connection.send(request(id=2))
    told = loaded.until(messages.Drawn)
    [failed] = [message for message in told if isinstance(message, messages.Failed)]
    assert (failed.id, failed.code) == (1, "checkpoint_unusable")
    assert told[-1].id == 2


def test_a_paused_drawing_waits_for_others_and_goes_on_as_if_nothing_had_happened(loaded: Engine) -> None:
    from tests.integration.engine.drawing import request

    loaded.connection.send(request(id=1, steps=200))
    undisturbed = _picture(loaded, 1)
    loaded.connection.send(request(id=2, steps=200))
    loaded.until(messages.Step)
    loaded.connection.send(messages.Pause(2))
    loaded.until(messages.Paused)
    loaded.connection.send(request(id=3, steps=50, width=96))
    told = loaded.until(messages.Drawn)
    assert told[-1].id == 3
    assert all(list(step.done) == [3] for step in told if isinstance(step, messages.Step))
    loaded.connection.send(messages.Continue(2))
    assert _picture(loaded, 2) == undisturbed


def test_an_engine_whose_drawings_all_wait_takes_its_orders(loaded: Engine) -> None:
    from tests.integration.engine.drawing import request

    loaded.connection.send(request(id=1, steps=100, record_bytes=RECORD_BYTES))
    loaded.connection.send(request(id=2, steps=100))
    loaded.until(messages.Step)
    for number in (1, 2, 9):  # the last is of nothing that is here
        loaded.connection.send(messages.Pause(number))
    loaded.until(messages.Paused, 2)
    loaded.connection.send(messages.Interrupt(1))
    assert loaded.until(messages.Checkpoint)[-1].id == 1
    loaded.connection.send(messages.Cancel(2))
    assert loaded.until(messages.Cancelled)[-1].id == 2
    loaded.connection.send(request(id=3))
    assert _picture(loaded, 3)
