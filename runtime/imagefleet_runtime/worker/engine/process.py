"""The engine's process: loads what the first message names, then draws whatever comes over its pipe.

It runs in a fork of the importer. It ends when the pipe closes (the supervisor is gone) and whenever the supervisor
kills it; it holds nothing to save.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch

from imagefleet_runtime.worker import images, messages
from imagefleet_runtime.worker.engine.adapters import AdapterError
from imagefleet_runtime.worker.engine.failures import describe, failure, is_out_of_memory, is_sticky
from imagefleet_runtime.worker.engine.hub import CancelledError, Drawing
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
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._encoders = ThreadPoolExecutor(ENCODE_THREADS, thread_name_prefix="encode")
        self._pictures: dict[int, Picture] = {}
        self._cancelled: set[int] = set()

    def run(self) -> None:
        order: messages.Load = self._connection.recv()
        torch.set_num_threads(order.threads)
        torch.set_grad_enabled(False)
        try:
            self._load(order)
        except Exception as error:
            self._send(load_failure(error))
            return
        while True:
            self._receive()
            if self._pictures:
                self._round()

    def _load(self, order: messages.Load) -> None:
        """Raises what loading and the first drawings raise."""
        self._meter = Meter("cuda" if torch.cuda.is_available() else "cpu")
        started = time.monotonic()
        stages = [started]
        self._pipeline = Pipeline.load(order, lambda seconds: self._stage("weights", started, stages, seconds))
        self._stage("options", stages[-1], stages)
        weights_bytes = self._meter.now()
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
        while not self._pictures or self._connection.poll():
            match self._connection.recv():
                case messages.Draw() as draw:
                    self._start(draw)
                case messages.Cancel() as cancel:
                    self._cancel(cancel.id)

    def _start(self, draw: messages.Draw) -> None:
        try:
            picture = self._pipeline.start(draw, partial(self._preview, draw))
        except Exception as error:
            self._fail(draw, error)
            return
        self._pictures[draw.id] = picture
        picture.began_steps()

    def _cancel(self, identifier: int) -> None:
        if identifier in self._pictures:
            self._pipeline.hub.cancel(identifier)
            self._collect()

    def _round(self) -> None:
        self._steps.begin(list(self._pictures.values()))
        ended = self._pipeline.hub.round()
        self._steps.end()
        self._finish_all(ended)

    def _collect(self) -> None:
        """What ended outside of a round."""
        self._finish_all(self._pipeline.hub.take_ended())

    def _finish_all(self, ended: Any) -> None:
        for drawing, drawn in ended.results:
            self._finish(drawing, drawn)
        for drawing, error in ended.errors:
            picture = self._pictures.pop(drawing.id)
            self._pipeline.forget_steps()
            self._fail(picture.draw, error)

    def _finish(self, drawing: Drawing, drawn: Any) -> None:
        """Hand the pixels to a thread that compresses and sends them."""
        picture = self._pictures.pop(drawing.id)
        self._pipeline.forget_steps()
        picture.mark("encode")
        peak = self._meter.peak()
        if not self._pictures:
            self._meter.reset()
        self._encoders.submit(self._encode, picture, drawing.work_seconds, drawn, peak)

    def _encode(self, picture: Picture, work_seconds: float, drawn: Any, peak: int | None) -> None:
        draw = picture.draw
        try:
            encoded = images.encode(picture.finish(drawn), draw.output_format, draw.output_compression)
        except Exception as error:
            self._send(failure(draw.id, error))
            return
        picture.mark("end")
        phases = picture.phases()
        seconds = (phases[-1].ended_ns - phases[0].started_ns) / 1e9
        self._send(messages.Drawn(draw.id, encoded, seconds, work_seconds, phases, peak))

    def _preview(self, draw: messages.Draw, index: int, pixels: Any) -> None:
        encoded = images.encode(pixels, draw.output_format, draw.output_compression)
        self._send(messages.Preview(draw.id, index, encoded))

    def _fail(self, draw: messages.Draw, error: Exception) -> None:
        if isinstance(error, CancelledError):
            self._send(messages.Cancelled(draw.id))
            return
        self._send(failure(draw.id, error, draw.prompt, draw.negative_prompt or ""))
        if is_sticky(error):
            raise SystemExit(1) from None

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
        self._started = self._ended = time.monotonic()

    def begin(self, pictures: list[Picture]) -> None:
        """A round with ``pictures`` begins. Where others take part than before, the count begins anew."""
        if pictures != self._pictures:
            self._flush()
            self._pictures = pictures
        if self._rounds == 0:
            self._started = time.monotonic()

    def end(self) -> None:
        self._rounds += 1
        if time.monotonic() - self._started >= STEP_SECONDS:
            self._flush()

    def _flush(self) -> None:
        if not self._rounds:
            return
        self._pipeline.synchronize()
        seconds = (time.monotonic() - self._started) / self._rounds
        draw = self._pictures[0].draw
        done = {picture.draw.id: picture.done for picture in self._pictures}
        self._send(messages.Step(done, draw.width, draw.height, seconds))
        self._rounds = 0


def load_failure(error: Exception) -> messages.LoadFailed:
    if isinstance(error, UnsupportedOptionError):
        return messages.LoadFailed("OptionUnsupported", str(error))
    if isinstance(error, AdapterError):
        return messages.LoadFailed("AdapterInvalid", str(error))
    if is_out_of_memory(error):
        return messages.LoadFailed("DoesNotFit", "the accelerator's memory does not hold the model and one drawing")
    return messages.LoadFailed("LoadFailed", describe(error))
