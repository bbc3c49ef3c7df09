"""Server-sent events: a stream cut into whole events, and what the gateway needs to know of one.

Pure.
"""

import re
from collections import Counter

from .errors import ApiError, read_error

# An event that never ends must not fill the memory. A picture of 64 megapixels as PNG is about this large (bytes).
MAX_EVENT_BYTES = 256 * 1024 * 1024
_END = b"\n\n"
_NAME = b"event: "
_DATA = b"data: "
_LONGEST_NAME = 100
_WHOLE = re.compile(rb" ?(\d{1,20})")


_Mark = tuple[bool, int | None]
"""Whether it is a picture, and its seed; or the index of a preview."""


class EventTooLargeError(Exception):
    """An event is over MAX_EVENT_BYTES."""


class Splitter:
    """Cuts bytes into events, each with the empty line that ends it."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The events that are now whole. Raises EventTooLargeError."""
        rest = self._rest
        # Its end may lie across the two pieces.
        search = max(0, len(rest) - 1)
        rest += data
        events, start = list[bytes](), 0
        while (end := rest.find(_END, search)) >= 0:
            end += len(_END)
            events.append(bytes(memoryview(rest)[start:end]))
            start = search = end
        del rest[:start]
        if len(rest) > MAX_EVENT_BYTES:
            raise EventTooLargeError
        return events


class Delivered:
    """What a caller has of a stream, so that another worker's goes on behind it.

    Previews are known by their index, pictures by their seed. A worker that goes on may send again what was sent
    before, or not.
    """

    def __init__(self) -> None:
        self.pictures = 0
        self._sent: Counter[_Mark] = Counter()
        self._seen: Counter[_Mark] = Counter()
        """From the worker that sends now."""

    def begin(self) -> None:
        """A worker begins to send."""
        self._seen.clear()

    def passes(self, event: bytes) -> bool:
        """Whether the caller does not have it yet; from now on it does."""
        mark = _mark(event)
        if mark is None:
            return True
        self._seen[mark] += 1
        if self._seen[mark] <= self._sent[mark]:
            return False
        self._sent[mark] += 1
        self.pictures += mark[0]
        return True


def _mark(event: bytes) -> _Mark | None:
    """What a picture or a preview is known by; None for any other event."""
    completed = is_completed(event)
    number = _number(event, b'"seed":' if completed else b'"partial_image_index":')
    return (completed, number) if completed or number is not None else None


def _number(event: bytes, key: bytes) -> int | None:
    """The whole number behind the last `key` of an event. Pictures are base64: they hold no key."""
    at = event.rfind(key)
    found = _WHOLE.match(event, at + len(key)) if at >= 0 else None
    return int(found[1]) if found else None


def checkpoint_data(event: bytes) -> bytes | None:
    """What the last event of a request that its worker gives up says; None for any other event."""
    return _data(event) if event.startswith(_NAME + b"imagefleet.checkpoint\n") else None


def _data(event: bytes) -> bytes:
    data = next((line for line in event.split(b"\n") if line.startswith(_DATA)), b"")
    return data[len(_DATA) :]


def is_completed(event: bytes) -> bool:
    """Whether an event brings a finished picture."""
    return event.startswith(_NAME) and event[:_LONGEST_NAME].partition(b"\n")[0].endswith(b".completed")


def error_code(event: bytes) -> str | None:
    """The code of an error event, empty where it names none; None for any other event."""
    if not event.startswith(_NAME + b"error\n"):
        return None
    return read_error(_data(event))[0]


def error_event(error: ApiError) -> bytes:
    return _NAME + b"error\n" + _DATA + error.body() + _END
