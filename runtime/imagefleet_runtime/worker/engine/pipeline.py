"""One loaded model: its weights, in whatever modes and with whatever adapters requests ask for."""

from __future__ import annotations

import copy
import functools
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from imagefleet_runtime.worker.checkpoint import CheckpointError
from imagefleet_runtime.worker.engine import merge, modes, options, tiles, vae
from imagefleet_runtime.worker.engine.adapters import Adapters, as_use
from imagefleet_runtime.worker.engine.hub import Drawing, Hub, SharedModule
from imagefleet_runtime.worker.engine.lanes import Lanes
from imagefleet_runtime.worker.engine.picture import Picture
from imagefleet_runtime.worker.engine.tape import Tape, tape_of
from imagefleet_runtime.worker.messages import Draw, Load

# Parts that run at every step, and so are worth sharing between drawings.
GUIDE = "controlnet"
SHARED_PARTS = ("unet", "transformer", GUIDE)
# Files are read ahead by a few threads; more would only fight for the same disk.
READ_THREADS = 4
READ_BYTES = 16 * 1024 * 1024


class Pipeline:
    """Not thread safe: all calls from the engine's main thread."""

    def __init__(self, pipe: Any, device: str, order: Load) -> None:
        """Raises AdapterError, UnsupportedOptionError, NotTextToImageError."""
        self.device = device
        self._adapters = Adapters(pipe, order.adapters)
        options.apply(order.options, pipe, order.cache_dir, lambda: self._timestep())
        vae.tile_large(getattr(pipe, "vae", None), int(getattr(pipe, "vae_scale_factor", 8)))
        self.pipe = pipe
        self._place: torch.device = pipe._execution_device
        self._modes = modes.Modes(pipe)
        self._cached = order.options.step_cache is not None
        self._drawn_by: Any = pipe
        shared = {name: module for name in SHARED_PARTS if (module := self._part(name)) is not None}
        # Step caching keeps one state for the whole model, so drawings must not share or alternate steps then.
        self.shared = [
            SharedModule(module, batches=not self._cached, guides=name == GUIDE)
            for name, module in shared.items()
        ]
        self.capabilities = modes.capabilities(
            self._modes,
            self._adapters.names,
            batches=self._denoiser_layout() is not None,
        )
        # What is compiled is compiled for a number of threads; on an accelerator threads only hand work out.
        self.lanes = Lanes(order.threads, choice=device == "cpu" and order.options.compile == "none")
        self.hub = Hub(self._adapters.activate, self.lanes)

    @classmethod
    def load(cls, order: Load, on_weights: Callable[[float], None]) -> Pipeline:
        """Weights from safetensors, in a local folder, with classes of the installed libraries only.

        ``on_weights`` is called with the seconds that the weights took. Raises AdapterError,
        UnsupportedOptionError, NotTextToImageError, and what diffusers raises.
        """
        device = "cuda" if torch.cuda.is_available() else "cpu"
        options.check_device(order.options, device)
        started = time.monotonic()
        pipe = _read(order, device)
        on_weights(time.monotonic() - started)
        return cls(pipe, device, order)

    def start(self, draw: Draw, on_preview: Callable[[int, Any], None]) -> Picture:
        """Begin to draw: the picture shares the hub's rounds from now on.

        ``on_preview`` is called with the preview's number and its pixels. Raises CheckpointError.
        """
        control = draw.control_image is not None
        pipe = self._own_copy(self._modes.pipe(draw.mode, control=control))
        use = as_use(draw.adapters)
        picture = Picture(draw, pipe, on_preview, self._tape(draw))

        def work() -> Any:
            self._drawn_by = pipe
            self._adapters.activate_encoders(pipe, use)
            return picture.work()

        windows = None if control else self._windows(draw)
        drawing = Drawing(
            draw.id,
            key=(draw.width, draw.height),
            work=work,
            pixels=draw.width * draw.height,
            adapters=use,
            windows=windows,
            tape=picture.tape,
        )
        self.hub.start(drawing)
        return picture

    def _tape(self, draw: Draw) -> Tape:
        """Raises CheckpointError."""
        # A denoiser that is not known, or that caches steps, may remember what it was asked before: answers from a
        # tape would leave it without that.
        if self._denoiser_layout() is None:
            if draw.resume is not None:
                raise CheckpointError("this model's pictures are drawn in one go")
            return Tape()
        return (
            Tape(draw.record_bytes)
            if draw.resume is None
            else tape_of(draw.resume, draw.record_bytes, self.device)
        )

    def forget_steps(self) -> None:
        """Drop what step caching remembers of a drawing that has ended, in whatever way."""
        if self._cached:
            options.denoiser(self.pipe)._reset_stateful_cache()  # type: ignore[operator]

    def synchronize(self) -> None:
        """Wait for the device: without this, a clock would measure only how fast work is handed to it."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def _part(self, name: str) -> torch.nn.Module | None:
        part = getattr(self.pipe, name, None)
        return part if isinstance(part, torch.nn.Module) else None

    def _own_copy(self, pipe: Any) -> Any:
        """A pipeline for one drawing: the same parts, but its own scheduler and its own state."""
        own = copy.copy(pipe)
        kind: Any = type(pipe)
        own.__class__ = _placed(kind, self._place)
        if hasattr(pipe, "scheduler"):
            # Past the pipeline's own __setattr__, which would rewrite its configuration. Of one that never took a step.
            vars(own)["scheduler"] = copy.deepcopy(pipe.scheduler)
        return own

    def _timestep(self) -> Any:
        return self._drawn_by.current_timestep

    def _denoiser_layout(self) -> merge.Layout | None:
        module = options.denoiser(self.pipe)
        return next((shared.layout for shared in self.shared if shared.module is module), None)

    def _windows(self, draw: Draw) -> tiles.Windows | None:
        """Tiles for a picture that is larger than the model draws at once, where its denoiser can be tiled."""
        layout = self._denoiser_layout()
        native = getattr(options.denoiser(self.pipe).config, "sample_size", None)
        if layout is None or not layout.tileable or not isinstance(native, int):
            return None
        factor = int(self.pipe.vae_scale_factor)
        return tiles.plan(draw.height // factor, draw.width // factor, native)


@functools.cache
def _placed(pipeline: type, device: torch.device) -> type:
    """``pipeline``, which knows where its parts are: diffusers' walks through all modules to find out, several times a
    picture."""
    place = property(lambda _self: device)
    return type(pipeline.__name__, (pipeline,), {"device": place, "_execution_device": place})


def _read(order: Load, device: str) -> Any:
    folder = Path(order.path)
    read_ahead(folder)
    placed = {"device_map": "cuda"} if device == "cuda" else {}
    pipe = modes.find_class(order.options.class_name, folder).from_pretrained(
        order.path,
        dtype=options.choose_dtype(order.options.dtype, device),
        use_safetensors=True,
        local_files_only=True,
        **placed,  # straight from the mapped file to the accelerator
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def read_ahead(folder: Path) -> None:
    """Have all weights read into the page cache, by several threads, while the first of them are being mapped."""

    def read(path: Path) -> None:
        with open(path, "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
            buffer = bytearray(READ_BYTES)
            while file.readinto(buffer):
                pass

    pool = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="read-ahead")
    for path in sorted(folder.rglob("*.safetensors"), key=lambda file: -file.stat().st_size):
        pool.submit(read, path)
    pool.shutdown(wait=False)
