"""What a drawing was told by the model so far: all that is needed to go on with it, in another engine too.

A drawing is a call of diffusers' own pipeline, which depends on the request, the seed and the denoiser's answers alone.
So the same call, given the same answers again at its first calls of the denoiser, is at the same place: its scheduler,
whichever it is, has the same history, and its generator the same state. What costs nothing is done again (texts are
encoded, a given picture too), what costs is not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from safetensors.torch import load, save

from imagefleet_runtime.worker.checkpoint import CheckpointError, metadata_of

# What a denoiser answers: a tensor, nothing, or one of KINDS of such.
Answer = Any
OUTPUTS = (Transformer2DModelOutput, UNet2DConditionOutput)
KINDS: dict[str, Any] = {kind.__name__: kind for kind in (list, tuple, *OUTPUTS)}
# The data types that denoisers compute in.
DTYPES = frozenset({torch.float32, torch.float16, torch.bfloat16})
# More than any picture has steps and calls a step; bounds what a checkpoint can make an engine do.
MAX_ANSWERS = 10_000
MAX_DEPTH = 4  # of lists in lists


class Tape:
    """The denoiser's answers to one drawing, oldest first.

    ``limit_bytes``: they are kept while they are no more than that; 0: not at all. ``given``: those of a checkpoint,
    which the drawing gets first, on ``device``.
    """

    def __init__(self, limit_bytes: int = 0, given: Sequence[Answer] = (), device: str = "cpu") -> None:
        self._limit = limit_bytes
        self._device = device
        self._answers = list(given)
        self._bytes = sum(tensor.nbytes for answer in given for tensor in _tensors(answer))
        self._given = len(given)
        self._played = 0
        self._guide: Answer = None
        self._lost = self._bytes > limit_bytes or limit_bytes == 0
        self.catching_up = bool(given)  # until the drawing gets an answer that was not given

    @property
    def whole(self) -> bool:
        """Whether a drawing can go on from here in another engine."""
        return not self._lost and bool(self._answers)

    def knows(self, *, guide: bool) -> bool:
        """Whether ``recall`` has an answer to the next call; ``guide``: of a ControlNet."""
        return self._played < self._given and (not guide or self._guide is not None)

    def recall(self, *, guide: bool) -> Answer:
        """The answer to the next call, as it was given before.

        A ControlNet's goes nowhere but into the denoiser's next call. Where that is not made, one will do for all.
        """
        if guide:
            return self._guide
        self._played += 1
        return _mapped(self._answers[self._played - 1], lambda tensor: tensor.to(self._device, copy=True))

    def add(self, answer: Answer, *, guide: bool) -> None:
        """A call was answered. Raises CheckpointError where what was given cannot be of this model."""
        if guide:
            self._guide = answer if self._played < self._given else None
            return
        if self.catching_up and _form(answer) != _form(self._answers[-1]):
            raise CheckpointError("the checkpoint is of a model whose answers have another form")
        self.catching_up, self._guide = False, None
        self._bytes += sum(tensor.nbytes for tensor in _tensors(answer))
        self._lost = self._lost or self._bytes > self._limit or not _is_kept(answer)
        if self._lost:
            self._answers.clear()
        else:
            self._answers.append(_mapped(answer, _to_host))

    def to_bytes(self) -> bytes:
        """For ``tape_of``: safetensors."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # copies to the host may be under way
        tensors: dict[str, torch.Tensor] = {}
        forms = [_written(answer, tensors) for answer in self._answers]
        return save(tensors, {"answers": json.dumps(forms)})


def tape_of(data: bytes, limit_bytes: int, device: str) -> Tape:
    """A tape that begins with what ``to_bytes`` wrote. Raises CheckpointError, whatever ``data`` is."""
    try:
        tensors = load(data)
        forms = json.loads(metadata_of(data)["answers"])
        if not 0 < len(forms) <= MAX_ANSWERS:
            raise CheckpointError("the checkpoint holds no answers, or far too many")
        answers = [_read(form, tensors, 0) for form in forms]
    except CheckpointError:
        raise
    except Exception as error:  # hostile bytes are refused in many ways
        raise CheckpointError(f"the checkpoint is broken: {type(error).__name__}") from None
    return Tape(limit_bytes, answers, device)


def _to_host(tensor: torch.Tensor) -> torch.Tensor:
    """A copy that nobody else changes. From an accelerator, without waiting for it."""
    if tensor.device.type == "cpu":
        return tensor.detach().clone(memory_format=torch.contiguous_format)
    kept = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return kept.copy_(tensor.detach(), non_blocking=True)


def _is_kept(answer: Answer) -> bool:
    """Whether it has no parts but those that a tape knows."""
    if isinstance(answer, torch.Tensor):
        return answer.dtype in DTYPES
    return answer is None or (type(answer) in KINDS.values() and all(map(_is_kept, _parts(answer))))


def _parts(answer: Answer) -> tuple[Answer, ...]:
    return answer.to_tuple() if isinstance(answer, OUTPUTS) else tuple(answer)


def _made(kind: Any, parts: Iterable[Answer]) -> Answer:
    return kind(*parts) if kind in OUTPUTS else kind(parts)


def _mapped(answer: Answer, change: Callable[[torch.Tensor], torch.Tensor]) -> Answer:
    if isinstance(answer, torch.Tensor):
        return change(answer)
    return None if answer is None else _made(type(answer), (_mapped(part, change) for part in _parts(answer)))


def _tensors(answer: Answer) -> Iterator[torch.Tensor]:
    if isinstance(answer, torch.Tensor):
        yield answer
    elif type(answer) in KINDS.values():
        for part in _parts(answer):
            yield from _tensors(part)


def _form(answer: Answer) -> object:
    """Equal for answers of the same shapes and types."""
    if isinstance(answer, torch.Tensor):
        return tuple(answer.shape), answer.dtype
    return [type(answer), *(map(_form, _parts(answer)) if type(answer) in KINDS.values() else ())]


def _written(answer: Answer, tensors: dict[str, torch.Tensor]) -> object:
    """``answer`` in JSON: tensors by their names in ``tensors``, to which they are added."""
    if isinstance(answer, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = answer
        return name
    if answer is None:
        return None
    return [type(answer).__name__, *(_written(part, tensors) for part in _parts(answer))]


def _read(form: Any, tensors: dict[str, torch.Tensor], depth: int) -> Answer:
    """Raises CheckpointError, KeyError, ValueError."""
    if form is None:
        return None
    if isinstance(form, str):
        tensor = tensors.pop(form)  # each stands in one place
        if tensor.dtype not in DTYPES:
            raise CheckpointError(f"the checkpoint holds numbers of type {tensor.dtype}")
        return tensor
    kind, *parts = form
    if depth == MAX_DEPTH or len(parts) > MAX_ANSWERS:
        raise CheckpointError("the checkpoint's answers have too many parts")
    return _made(KINDS[kind], [_read(part, tensors, depth + 1) for part in parts])
