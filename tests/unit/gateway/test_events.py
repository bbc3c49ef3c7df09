import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_runtime.gateway import events
from imagefleet_runtime.gateway.errors import server_error
from imagefleet_runtime.gateway.events import Splitter

PARTIAL = b'event: image_generation.partial_image\ndata: {"type": "x"}\n\n'
COMPLETED = b'event: image_edit.completed\ndata: {"type": "x"}\n\n'
ERROR = b'event: error\ndata: {"error": {"code": "out_of_memory", "message": "m"}}\n\n'


@given(st.lists(st.sampled_from([PARTIAL, COMPLETED, ERROR, b": still here\n\n"])), st.data())
def test_whole_events_however_they_are_cut(sent: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    splitter, got = Splitter(), list[bytes]()
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += splitter.feed(stream[start:end])
    assert got == sent
    assert splitter.feed(b"") == []


def test_half_an_event_is_kept_back() -> None:
    splitter = Splitter()
    assert splitter.feed(PARTIAL + COMPLETED[:-1]) == [PARTIAL]
    assert splitter.feed(COMPLETED[-1:]) == [COMPLETED]


def test_an_event_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_EVENT_BYTES", 10)
    splitter = Splitter()
    splitter.feed(b"x" * 10)
    with pytest.raises(events.EventTooLargeError):
        splitter.feed(b"x")


KINDS: dict[str, tuple[bytes, bool, str | None]] = {
    "a preview": (PARTIAL, False, None),
    "a finished picture": (COMPLETED, True, None),
    "an error": (ERROR, False, "out_of_memory"),
    "an error without a code": (b"event: error\ndata: {}\n\n", False, ""),
    "an error without data": (b"event: error\n\n", False, ""),
    "a comment": (b": still here\n\n", False, None),
    "data that speaks of an error": (b"data: event: error\n\n", False, None),
    "data that speaks of an end": (b"data: event: image_edit.completed\n\n", False, None),
}


@pytest.mark.parametrize(("event", "completed", "code"), KINDS.values(), ids=KINDS.keys())
def test_knows(event: bytes, completed: bool, code: str | None) -> None:
    assert (events.is_completed(event), events.error_code(event)) == (completed, code)


def test_an_error_is_an_event_in_openais_shape() -> None:
    event = events.error_event(server_error(502, "worker_lost", "two\nlines"))
    name, data = event.removesuffix(b"\n\n").split(b"\n")
    assert name == b"event: error"
    assert json.loads(data.removeprefix(b"data: "))["error"] == {
        "message": "two\nlines",
        "type": "server_error",
        "param": None,
        "code": "worker_lost",
    }
    assert events.error_code(event) == "worker_lost"
