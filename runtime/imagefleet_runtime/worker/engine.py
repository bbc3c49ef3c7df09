"""The engine: one process that holds one pipeline. Runs in a fork of the importer and speaks over one pipe.

It ends when the pipe closes (the supervisor is gone) and whenever the supervisor kills it; it holds nothing to save.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch

from imagefleet_runtime.worker import images, messages
from imagefleet_runtime.worker.memory import private_bytes
from imagefleet_runtime.worker.pipeline import CancelledError, Pipeline

# Less often than this, progress would be late; more often, it would keep the supervisor busy for nothing.
PROGRESS_SECONDS = 0.05
WARM_UP_STEPS = 2


def main(connection: Connection) -> None:
    """Load what the first message names, then serve drawings until the pipe closes."""
    # To end is the supervisor's decision, also for group-wide signals.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        _Engine(connection).run()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the supervisor is gone


class _Engine:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._base_bytes = private_bytes()

    def run(self) -> None:
        order = self._connection.recv()
        torch.set_num_threads(order.threads)
        torch.set_grad_enabled(False)
        try:
            self._pipeline = Pipeline.load(order)
        except Exception as error:
            self._connection.send(messages.LoadFailed("LoadFailed", describe(error)))
            return
        self._connection.send(messages.Loaded(self._pipeline.capabilities))
        while True:
            self._answer(self._connection.recv())

    def _answer(self, message: object) -> None:
        match message:
            case messages.Calibrate():
                self._guarded(lambda: self._calibrate(message))
            case messages.Generate():
                secrets = (message.prompt, message.negative_prompt or "")
                self._guarded(lambda: self._generate(message), *secrets)
            case messages.Cancel():
                pass  # the drawing it was meant for has just ended

    def _guarded(self, work: Callable[[], object], *secrets: str) -> None:
        try:
            reply = work()
        except CancelledError:
            reply = messages.Cancelled()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except Exception as error:
            self._connection.send(failure(error, *secrets))
            if is_sticky(error):
                raise SystemExit(1) from None
            return
        self._connection.send(reply)

    def _generate(self, request: messages.Generate) -> messages.Done:
        watch = _Watch(self._connection, request.n * request.steps)
        started = time.monotonic()
        drawings = [
            self._pipeline.draw(request, request.seed + index, watch.step) for index in range(request.n)
        ]
        seconds = time.monotonic() - started
        encoded = (
            images.encode(pixels, request.output_format, request.output_compression) for pixels in drawings
        )
        return messages.Done(tuple(encoded), seconds)

    def _calibrate(self, order: messages.Calibrate) -> messages.Calibrated:
        self._draw_default(order, WARM_UP_STEPS)
        ends: list[float] = []

        def note_step() -> None:
            self._pipeline.synchronize()
            ends.append(time.monotonic())

        started = time.monotonic()
        self._draw_default(order, order.steps, note_step)
        total = time.monotonic() - started
        # A scheduler may take more steps than it was asked for (Heun) or report none.
        between = ends[-1] - ends[0] if len(ends) == order.steps and order.steps > 1 else None
        return messages.Calibrated(messages.Timing(total, order.steps, between), self._memory_bytes())

    def _draw_default(
        self, order: messages.Calibrate, steps: int, on_step: Callable[[], None] = lambda: None
    ) -> None:
        request = messages.Generate(
            prompt="calibration",
            negative_prompt=None,
            n=1,
            width=order.width,
            height=order.height,
            steps=steps,
            guidance_scale=order.guidance_scale,
            seed=0,
            output_format="png",
            output_compression=None,
        )
        self._pipeline.draw(request, 0, on_step)

    def _memory_bytes(self) -> int | None:
        """The accelerator's memory that this engine needed at most; without one, what it holds for itself alone."""
        if self._pipeline.device == "cuda":
            return torch.cuda.max_memory_allocated()
        now = private_bytes()
        return None if now is None or self._base_bytes is None else max(now - self._base_bytes, 0)


class _Watch:
    """Reports progress and notices a wish to stop, after each step."""

    def __init__(self, connection: Connection, steps: int) -> None:
        self._connection = connection
        self._steps = steps
        self._done = 0
        self._reported = time.monotonic()

    def step(self) -> None:
        """Raises CancelledError; EOFError where the supervisor is gone."""
        self._done += 1
        if self._connection.poll():
            self._connection.recv()  # nothing but Cancel comes while a drawing runs
            raise CancelledError
        now = time.monotonic()
        if now - self._reported >= PROGRESS_SECONDS:
            self._reported = now
            self._connection.send(messages.Progress(min(self._done / self._steps, 1.0)))


def failure(error: Exception, *secrets: str) -> messages.Failed:
    """``error`` as the caller may see it: typed, one line, without ``secrets`` (the prompts)."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
        return messages.Failed(
            "out_of_memory", "not enough memory for this request; ask for fewer pixels or images"
        )
    return messages.Failed("generation_failed", describe(error, *secrets))


def describe(error: Exception, *secrets: str) -> str:
    """Class and first line of ``error``, without ``secrets``."""
    text = str(error)
    for secret in filter(None, secrets):  # before the cut, which could leave a part of one
        text = text.replace(secret, "...")
    lines = text.strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300] if lines else 'no message'}"


def is_sticky(error: Exception) -> bool:
    """Whether the process is of no more use: after a CUDA error every later call fails too (out of memory does not)."""
    return "CUDA error" in str(error) and not isinstance(error, torch.OutOfMemoryError)
