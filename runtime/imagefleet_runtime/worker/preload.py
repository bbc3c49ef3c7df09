"""What every engine needs, imported once in the importer, from which engines are forked.

``multiprocessing``'s fork server swallows an ImportError of a module that it preloads, so the error is kept here and
the first process that is forked tells the supervisor (see ``importer``).
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import signal
import threading
import traceback

# A group-wide SIGTERM (a shell, some container runtimes) must not end the importer under a request that is finishing;
# it ends when the supervisor does.
signal.signal(signal.SIGTERM, signal.SIG_IGN)

# There is nothing to save at the importer's end, and taking down torch's and triton's bindings prints pages of leaks.
atexit.register(os._exit, 0)

# Collecting garbage among millions of new, live objects finds nothing: without it imports take 8 % less time.
gc.disable()
error: str | None = None
try:
    import torch

    # torchao, which diffusers imports, calls what torch has deprecated: nothing that a reader of our log could mend.
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    import diffusers
    import tqdm  # type: ignore[import-untyped]
    import transformers
    from diffusers import guiders, schedulers  # noqa: F401  loaded lazily by the first pipeline otherwise
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline  # noqa: F401
    from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel  # noqa: F401

    # The engine itself, and the classes of the common families in all their modes: each costs a few milliseconds here,
    # once their shared parts are in. Those of ControlNets cost fifty, and few models have one.
    import imagefleet_runtime.worker.engine  # noqa: F401

    for _family, _modes in {
        "StableDiffusion": ("", "Img2Img", "Inpaint"),
        "StableDiffusionXL": ("", "Img2Img", "Inpaint"),
        "StableDiffusion3": ("", "Img2Img", "Inpaint"),
        "Flux": ("", "Img2Img", "Inpaint"),
        "Flux2Klein": ("", "Inpaint"),
        "ZImage": ("", "Img2Img", "Inpaint"),
        "QwenImage": ("",),
        "PixArtSigma": ("",),
        "Sana": ("",),
    }.items():
        for _mode in _modes:
            getattr(diffusers, f"{_family}{_mode}Pipeline", None)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        error = "CUDA was initialised by an import: engines cannot be forked from this process"
    # Bars are off; without these lines tqdm would start a thread and leak a semaphore in every engine all the same.
    tqdm.tqdm.monitor_interval = 0
    tqdm.tqdm.set_lock(threading.RLock())
    # diffusers logs the end of a prompt that is too long for the text encoder; prompts must not be logged.
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
except Exception:
    error = traceback.format_exc()
gc.enable()
# Engines share these pages as long as nobody writes to them, and a collection would write to all.
gc.freeze()
