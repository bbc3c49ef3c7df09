"""Server-sent events: a stream cut into whole events, and what the gateway needs to know of one.

Pure.
"""

from .errors import ApiError, read_error

# An event that never ends must not fill the memory. A picture of 64 megapixels as PNG is about this large (bytes).
MAX_EVENT_BYTES = 256 * 1024 * 1024
_END = b"\n\n"
_NAME = b"event: "
_DATA = b"data: "
_LONGEST_NAME = 100


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


def is_completed(event: bytes) -> bool:
    """Whether an event brings a finished picture."""
    return event.startswith(_NAME) and event[:_LONGEST_NAME].partition(b"\n")[0].endswith(b".completed")


def error_code(event: bytes) -> str | None:
    """The code of an error event, empty where it names none; None for any other event."""
    if not event.startswith(_NAME + b"error\n"):
        return None
    data = next((line for line in event.split(b"\n") if line.startswith(_DATA)), b"")
    return read_error(data[len(_DATA) :])[0]


def error_event(error: ApiError) -> bytes:
    return _NAME + b"error\n" + _DATA + error.body() + _END
