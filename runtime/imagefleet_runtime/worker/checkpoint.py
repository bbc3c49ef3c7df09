"""An interrupted request as bytes: its finished pictures, what the model answered so far to the others, and of what.

It is a safetensors file (no pickle) whose metadata say which model and request it belongs to. ``drawing.I`` in it, for
picture I, is opaque here: the engine's tape, another safetensors file. ``picture.I`` is a finished picture, encoded.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load, save

from imagefleet_runtime.worker.messages import Draw

if TYPE_CHECKING:
    from imagefleet_runtime.worker.policy import ModelPolicy

# Of one request, before base64. SDXL at 1024x1024 answers 0.26 MB a step with guidance, FLUX.1 0.5 MB: some 90 steps.
LIMIT_BYTES = 48 * 1024 * 1024
# What decides about a picture. Not its id, how many previews of it are sent, or where it goes on from.
NOT_OF_PICTURE = frozenset({"id", "previews", "resume", "record_bytes"})
# A drawing is the same where the same code draws it: other versions call the model in another order, or know other
# schedulers.
DISTRIBUTIONS = ("imagefleet", "diffusers", "torch", "transformers")
FORMAT = 1
MAX_COUNT = 2**53 - 1  # as of every whole number in JSON


class CheckpointError(Exception):
    """A checkpoint that cannot be read, or is of something else; the message says why."""


@dataclass(frozen=True)
class Checkpoint:
    """``model``, ``request``: hashes (see ``model_hash``, ``request_hash``). ``seed``: of the first picture. By the
    number of the picture: ``drawings`` that go on, ``steps`` of each that were done, and finished ``pictures``."""

    model: str
    request: str
    seed: int
    drawings: Mapping[int, bytes] = field(default_factory=dict)
    steps: Mapping[int, int] = field(default_factory=dict)
    pictures: Mapping[int, bytes] = field(default_factory=dict)

    @property
    def steps_done(self) -> int:
        return sum(self.steps.values())

    def within(self, limit_bytes: int) -> Checkpoint:
        """Without the drawings and pictures that are too much: they are begun anew. Pictures are kept first."""
        left = limit_bytes
        kept: dict[str, dict[int, bytes]] = {"pictures": {}, "drawings": {}}
        for name, parts in kept.items():
            for number, data in sorted(getattr(self, name).items()):
                if len(data) <= left:
                    parts[number] = data
                    left -= len(data)
        steps = {
            number: steps
            for number, steps in self.steps.items()
            if number in kept["drawings"] or number in kept["pictures"]
        }
        return Checkpoint(self.model, self.request, self.seed, kept["drawings"], steps, kept["pictures"])

    def to_bytes(self) -> bytes:
        tensors = {f"drawing.{number}": data for number, data in self.drawings.items()}
        tensors |= {f"picture.{number}": data for number, data in self.pictures.items()}
        told = {
            "format": FORMAT,
            "model": self.model,
            "request": self.request,
            "seed": self.seed,
            "steps": {str(number): steps for number, steps in self.steps.items()},
        }
        arrays = {name: np.frombuffer(data, np.uint8) for name, data in tensors.items()}
        return save(arrays, {"imagefleet": json.dumps(told)})


def read(data: bytes) -> Checkpoint:
    """What ``Checkpoint.to_bytes`` wrote. Raises CheckpointError, whatever ``data`` is."""
    try:
        tensors = load(data)
        told = json.loads(metadata_of(data)["imagefleet"])
        if told["format"] != FORMAT:
            raise CheckpointError("the checkpoint was written by another version of imagefleet")
        parts: dict[str, dict[int, bytes]] = {"drawing": {}, "picture": {}}
        for name, array in tensors.items():
            kind, number = name.split(".")
            if array.dtype != np.uint8:
                raise CheckpointError("the checkpoint holds what is no bytes")
            parts[kind][_count(int(number))] = array.tobytes()
        steps = {int(number): _count(steps) for number, steps in told["steps"].items()}
        if steps.keys() != parts["drawing"].keys() | parts["picture"].keys():
            raise CheckpointError("the checkpoint does not say how far its pictures are")
        return Checkpoint(
            str(told["model"]),
            str(told["request"]),
            _count(told["seed"]),
            parts["drawing"],
            steps,
            parts["picture"],
        )
    except CheckpointError:
        raise
    except Exception as error:  # hostile bytes are refused in many ways
        raise CheckpointError(f"the checkpoint is broken: {type(error).__name__}") from None


def _count(value: Any) -> int:
    """Raises ValueError."""
    if type(value) is not int or not 0 <= value <= MAX_COUNT:
        raise ValueError("no count")
    return value


def metadata_of(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file that was loaded already, and so is sound."""
    length = int.from_bytes(data[:8], "little")
    return dict(json.loads(data[8 : 8 + length]).get("__metadata__", {}))


def model_hash(entry: ModelPolicy) -> str:
    """Equal where the same weights, adapters, options and code draw."""
    return _hash(
        {
            "digest": entry.digest,
            "adapters": sorted((adapter.name, adapter.digest) for adapter in entry.adapters),
            "pipeline": entry.pipeline.model_dump(),
            "versions": _versions(),
        }
    )


@cache
def _versions() -> tuple[str, ...]:
    """Read from files, which do not change while a worker runs."""
    return tuple(version(name) for name in DISTRIBUTIONS)


def request_hash(drawings: Sequence[Draw]) -> str:
    """Equal where the same pictures are asked for: everything but the seeds, which follow from the first one's."""
    told = {
        part.name: _plain(getattr(drawings[0], part.name))
        for part in fields(Draw)
        if part.name not in NOT_OF_PICTURE | {"seed"}
    }
    return _hash({**told, "pictures": len(drawings)})


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, tuple):
        return [[adapter.name, adapter.scale] for adapter in value]
    return value


def _hash(value: Any) -> str:
    return "sha256:" + hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()
