"""Requests that a worker gave up, and where another one goes on.

A checkpoint is opaque here: JSON of a string, handed on as it came. It takes part of the room for callers' bodies while
it is kept; where there is none left the pictures are begun anew.
"""

import msgspec

from .bodies import Budget
from .errors import ApiError, server_error

INTERRUPTED = "interrupted"
UNUSABLE = "checkpoint_unusable"
# Of one request. A worker that gives everything up must not keep it going round for ever.
MAX_INTERRUPTIONS = 8
# In base64; workers take no more (bytes).
MAX_CHECKPOINT_BYTES = 65 * 1024 * 1024
# The worker that gave a request up does not get it back for this long (seconds) unless it is the only one: it ends, or
# has more urgent things to draw.
AVOID_SECONDS = 10.0


class _Error(msgspec.Struct):
    code: str | None = None


class Interruption(msgspec.Struct, rename="camel"):
    """What a worker says of a request that it gave up."""

    checkpoint: msgspec.Raw = msgspec.Raw()
    steps_done: int = 0


class _Reply(Interruption, rename="camel", kw_only=True):
    error: _Error


_reply = msgspec.json.Decoder(_Reply)
_event = msgspec.json.Decoder(Interruption)
_NOTHING = Interruption()


def read_interruption(body: bytes) -> Interruption | None:
    """What is in a worker's 503; None where it is about something else."""
    try:
        reply = _reply.decode(body)
    except msgspec.DecodeError:
        return None
    return reply if reply.error.code == INTERRUPTED else None


def read_checkpoint(data: bytes) -> Interruption:
    """What is in a stream's last event; one that cannot be read has no checkpoint."""
    try:
        return _event.decode(data)
    except msgspec.DecodeError:
        return _NOTHING


class Checkpoint:
    """Where a request goes on, with its part of the room for bodies until `drop`."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._model = ""
        self._data = msgspec.Raw()
        self._size = 0

    def keep(self, model: str, data: msgspec.Raw) -> None:
        """Take the place of an earlier one, which stays where there is none.

        One that is too large, or has no room, is not kept.
        """
        view = memoryview(data)
        if bytes(view[:1]) != b'"':
            return
        self.drop()
        if len(view) <= MAX_CHECKPOINT_BYTES and self._budget.take(len(view)):
            self._model, self._data, self._size = model, data, len(view)

    def of(self, model: str) -> msgspec.Raw | None:
        """The checkpoint for another worker of the same ImageModel; None where there is none."""
        return self._data if self._size and model == self._model else None

    def drop(self) -> None:
        self._budget.give_back(self._size)
        self._model, self._data, self._size = "", msgspec.Raw(), 0


def gave_up() -> ApiError:
    return server_error(
        503,
        INTERRUPTED,
        f"Workers gave the request up more than {MAX_INTERRUPTIONS} times. Try again in a minute.",
        retry_after=60,
    )
