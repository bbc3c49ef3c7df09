"""What goes wrong in an engine, as the supervisor and the caller may see it."""

from __future__ import annotations

import torch

from imagefleet_runtime.worker import messages
from imagefleet_runtime.worker.checkpoint import CheckpointError


def is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def failure(identifier: int, error: Exception, *secrets: str) -> messages.Failed:
    """``error`` as the caller may see it: typed, one line, without ``secrets`` (the prompts)."""
    if is_out_of_memory(error):
        return messages.Failed(
            identifier, "out_of_memory", "not enough memory for this request; ask for fewer pixels or images"
        )
    if isinstance(error, CheckpointError):
        return messages.Failed(identifier, "checkpoint_unusable", str(error))
    return messages.Failed(identifier, "generation_failed", describe(error, *secrets))


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
