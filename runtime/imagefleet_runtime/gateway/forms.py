"""multipart/form-data as it arrives: parts are collected from chunks, nothing is written to disk."""

import logging

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from .errors import ApiError, invalid

MAX_PARTS = 64
_NAME_SHOWN = 100
# Encodings that leave the bytes as they are; RFC 7578 knows no others.
_IDENTITIES = (b"", b"binary", b"8bit", b"7bit")

# What a caller sent wrong is told to the caller.
logging.getLogger("python_multipart").setLevel(logging.ERROR)


class Form:
    """The parts of a form by name, in the order in which they came.

    `feed` and `finish` raise ApiError (400 `invalid_form`).
    """

    def __init__(self, content_type: bytes) -> None:
        self.parts: dict[str, list[bytearray]] = {}
        self._count = 0
        self._complete = False
        self._headers: dict[bytes, bytes] = {}
        self._header_name = b""
        self._header_value = b""
        self._data = bytearray()
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if not boundary:
            raise _invalid("its Content-Type names no boundary")
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._field,
                    "on_header_value": self._value,
                    "on_header_end": self._header,
                    "on_headers_finished": self._start,
                    "on_part_data": self._more,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise _invalid(str(error)) from None

    def feed(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _invalid(str(error)) from None

    def finish(self) -> dict[str, list[bytearray]]:
        """All parts, once the body has ended."""
        if not self._complete:
            raise _invalid("it ends before its last boundary")
        return self.parts

    # The parser calls these.

    def _begin(self) -> None:
        self._count += 1
        if self._count > MAX_PARTS:
            raise _invalid(f"it has more than {MAX_PARTS} parts")
        self._headers = {}

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def _start(self) -> None:
        encoding = self._headers.get(b"content-transfer-encoding", b"").strip().lower()
        if encoding not in _IDENTITIES:
            raise _invalid("a part has a Content-Transfer-Encoding; send its bytes as they are")
        kind, options = parse_options_header(self._headers.get(b"content-disposition"))
        name = options.get(b"name")
        if kind != b"form-data" or not name:
            raise _invalid("a part has no name")
        self._data = bytearray()
        self.parts.setdefault(name.decode(errors="replace"), []).append(self._data)

    def _more(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]

    def _end(self) -> None:
        self._complete = True


def _invalid(problem: str) -> ApiError:
    return invalid("invalid_form", None, f"The body is not a form that can be read: {problem[:_NAME_SHOWN]}.")
