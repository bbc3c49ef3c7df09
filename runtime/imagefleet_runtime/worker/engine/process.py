"""The engine's process: loads what the first message names, then draws whatever comes over its pipe.

It runs in a fork of the importer. It ends when the pipe closes (the supervisor is gone) and whenever the supervisor
kills it; it holds nothing to save.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch

from imagefleet_runtime.worker import images, messages
from imagefleet_runtime.worker.engine.adapters import AdapterError
from imagefleet_runtime.worker.engine.failures import describe, failure, is_out_of_memory, is_sticky
from imagefleet_runtime.worker.engine.hub import CancelledError, Drawing, Round
from imagefleet_runtime.worker.engine.meter import Meter
from imagefleet_runtime.worker.engine.options import UnsupportedOptionError
from imagefleet_runtime.worker.engine.picture import Picture
from imagefleet_runtime.worker.engine.pipeline import Pipeline
from imagefleet_runtime.worker.engine.warm import warm

# Less often than this, progress would be late; more often, it would keep the supervisor busy for nothing.
STEP_SECONDS = 0.05
# Pictures are compressed beside the drawing of others, by threads that leave the interpreter to it.
ENCODE_THREADS = 2


def main(connection: Connection) -> None:
    """Serve ``connection`` until it closes."""
    # To end is the supervisor's decision, also for group-wide signals.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        _Engine(connection).run()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the supervisor is gone


class _Engine:
    """The engine's main thread: it alone touches the pipeline. Pictures are encoded by ``_encoders``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._encoders = ThreadPoolExecutor(ENCODE_THREADS, thread_name_prefix="encode")
        self._waiting: deque[messages.Draw] = deque()  # not begun, as this model draws one picture at a time
        self._pictures: dict[int, Picture] = {}
        # What is sent at the end of those that are being stopped.
        self._stopped: dict[int, Callable[[], object]] = {}
        # The previews of each picture that are being encoded: all are sent before its end is.
        self._previews: dict[int, list[Future[None]]] = {}

    def run(self) -> None:
        order: messages.Load = self._connection.recv()
        torch.set_num_threads(order.threads)
        torch.set_grad_enabled(False)
        try:
            self._load(order)
        except Exception as error:
            self._send(load_failure(error))
            return
        # Not while loading: tensors that are made in this mode can be changed nowhere else, and quantization would.
        with torch.inference_mode():
            while True:
                self._receive()
                self._round()

    def _load(self, order: messages.Load) -> None:
        """Raises what loading and the first drawings raise."""
        self._meter = Meter("cuda" if torch.cuda.is_available() else "cpu")
        started = time.monotonic()
        stages = [started]
        self._pipeline = Pipeline.load(
            order, lambda seconds: self._stage("weights", started, stages, seconds)
        )
        self._stage("options", stages[-1], stages)
        weights_bytes = self._meter.now()
        with torch.inference_mode():
            profiles = warm(self._pipeline, self._meter, order.warmth)
        self._stage("warm", stages[-1], stages)
        self._meter.reset()
        self._steps = _Steps(self._pipeline, self._send)
        self._send(messages.Loaded(self._pipeline.capabilities, profiles, weights_bytes))

    def _stage(self, name: str, started: float, ends: list[float], seconds: float | None = None) -> None:
        ends.append(time.monotonic())
        self._send(messages.Stage(name, ends[-1] - started if seconds is None else seconds))

    def _receive(self) -> None:
        """Take all messages that have come; wait for one where there is nothing to draw."""
        while not self._active() or self._connection.poll():
            self._obey(self._connection.recv())
            self._start_waiting()

    def _obey(self, order: object) -> None:
        match order:
            case messages.Draw():
                self._waiting.append(order)
            case messages.Cancel():
                self._end(order.id, lambda: messages.Cancelled(order.id))
            case messages.Interrupt():
                self._interrupt(order.id)
            case messages.Pause() if order.id in self._pictures:
                self._steps.flush()
                self._pipeline.hub.pause(order.id, True)
                self._send(messages.Paused(order.id))
            case messages.Continue() if order.id in self._pictures:
                self._pipeline.hub.pause(order.id, False)

    def _active(self) -> list[Picture]:
        """The pictures that take part in the next round."""
        return [
            picture for number, picture in self._pictures.items() if not self._pipeline.hub.is_paused(number)
        ]

    def _start_waiting(self) -> None:
        while self._waiting and (self._pipeline.capabilities.batches or not self._pictures):
            self._start(self._waiting.popleft())

    def _start(self, draw: messages.Draw) -> None:
        self._previews[draw.id] = []
        try:
            picture = self._pipeline.start(draw, partial(self._preview, draw))
        except Exception as error:
            self._fail(draw, error)
            return
        self._pictures[draw.id] = picture
        picture.began_steps()

    def _end(self, identifier: int, last: Callable[[], object]) -> None:
        """Stop a drawing; ``last`` makes the message that is the end of it."""
        if identifier in self._pictures:
            self._stopped[identifier] = last
            self._pipeline.hub.cancel(identifier)
            self._finish_all(self._pipeline.hub.take_ended())
            return
        for draw in [draw for draw in self._waiting if draw.id == identifier]:
            self._waiting.remove(draw)
            self._send(messages.Cancelled(identifier))

    def _interrupt(self, identifier: int) -> None:
        picture = self._pictures.get(identifier)
        if picture is None or picture.steps_done == 0:
            self._end(identifier, lambda: messages.Cancelled(identifier))
        elif picture.tape.whole:
            steps, tape = picture.steps_done, picture.tape
            self._end(identifier, lambda: messages.Checkpoint(identifier, steps, tape.to_bytes()))

    def _round(self) -> None:
        active = self._active()
        if not active:
            return
        self._steps.begin(active)
        ended = self._pipeline.hub.round()
        self._steps.end()
        self._finish_all(ended)
        self._start_waiting()
        if not self._pictures:
            self._steps.forget()

    def _finish_all(self, ended: Round) -> None:
        for drawing, drawn in ended.results:
            self._stopped.pop(drawing.id, None)
            self._finish(drawing, drawn)
        for drawing, error in ended.errors:
            picture = self._pictures.pop(drawing.id)
            self._pipeline.forget_steps()
            self._fail(picture.draw, error, self._stopped.pop(drawing.id, None))

    def _finish(self, drawing: Drawing, drawn: Any) -> None:
        """Hand what was drawn to a thread that compresses and sends it."""
        picture = self._pictures.pop(drawing.id)
        self._pipeline.forget_steps()
        picture.mark("encode")
        peak = self._meter.peak()
        if not self._pictures:
            self._meter.reset(exact=False)
        self._send_last(picture.draw, partial(self._encoded, picture, drawing, drawn, peak))

    @staticmethod
    def _encoded(picture: Picture, drawing: Drawing, drawn: Any, peak: int | None) -> messages.Drawn:
        draw = picture.draw
        encoded = images.encode(picture.finish(drawn), draw.output_format, draw.output_compression)
        picture.mark("end")
        phases = picture.phases()
        seconds = (phases[-1].ended_ns - phases[0].started_ns) / 1e9
        work = drawing.work_seconds, drawing.shared_seconds
        return messages.Drawn(draw.id, encoded, seconds, *work, phases, peak)

    def _preview(self, draw: messages.Draw, index: int, pixels: Any) -> None:
        def encode() -> None:
            encoded = images.encode(pixels, draw.output_format, draw.output_compression)
            self._send(messages.Preview(draw.id, index, encoded))

        self._previews[draw.id].append(self._encoders.submit(encode))

    def _fail(
        self, draw: messages.Draw, error: Exception, stopped: Callable[[], object] | None = None
    ) -> None:
        """``stopped``: what to send where it was stopped."""
        if isinstance(error, CancelledError) and stopped is not None:
            self._send_last(draw, stopped)
            return
        failed = failure(draw.id, error, draw.prompt, draw.negative_prompt or "")
        self._send_last(draw, lambda: failed)
        if is_sticky(error):
            self._encoders.shutdown()
            raise SystemExit(1) from None

    def _send_last(self, draw: messages.Draw, make: Callable[[], object]) -> None:
        """Send what ``make`` returns when all previews of ``draw`` are sent. Threads take up work in the order in which
        it was handed to them, so that this one never waits for what has not begun."""
        previews = self._previews.pop(draw.id)

        def send() -> None:
            wait(previews)
            try:
                message = make()
            except Exception as error:
                message = failure(draw.id, error, draw.prompt, draw.negative_prompt or "")
            self._send(message)

        self._encoders.submit(send)

    def _send(self, message: object) -> None:
        with self._sending:
            self._connection.send(message)


class _Steps:
    """Tells the supervisor how far drawings are, and what a step of theirs took."""

    def __init__(self, pipeline: Pipeline, send: Callable[[object], None]) -> None:
        self._pipeline = pipeline
        self._send = send
        self._pictures: list[Picture] = []
        self._rounds = 0
        self._started = time.monotonic()

    def begin(self, pictures: list[Picture]) -> None:
        """A round with ``pictures`` begins. Where others take part than before, the count begins anew."""
        if pictures != self._pictures:
            self.flush()
            self._pictures = pictures
        if self._rounds == 0:
            self._started = time.monotonic()

    def end(self) -> None:
        self._rounds += 1
        if time.monotonic() - self._started >= STEP_SECONDS:
            self.flush()

    def forget(self) -> None:
        """All have ended: there is nobody to tell of, and what they hold may be a checkpoint of many MB."""
        self._rounds, self._pictures = 0, []

    def flush(self) -> None:
        """Tell of the rounds since it was last told: before a time in which there are none."""
        if not self._rounds:
            return
        self._pipeline.synchronize()
        seconds = (time.monotonic() - self._started) / self._rounds
        draw = self._pictures[0].draw
        done = {picture.draw.id: picture.done for picture in self._pictures}
        self._send(messages.Step(done, draw.width, draw.height, seconds, self._rounds))
        self._rounds = 0


def load_failure(error: Exception) -> messages.LoadFailed:
    if isinstance(error, UnsupportedOptionError):
        return messages.LoadFailed("OptionUnsupported", str(error))
    if isinstance(error, AdapterError):
        return messages.LoadFailed("AdapterInvalid", str(error))
    if is_out_of_memory(error):
        return messages.LoadFailed(
            "DoesNotFit", "the accelerator's memory does not hold the model and one drawing"
        )
    return messages.LoadFailed("LoadFailed", describe(error))
