from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_runtime.worker.sources import journal
from imagefleet_runtime.worker.sources.journal import Journal, Span, merged, missing, read_spans, read_total


@pytest.mark.parametrize(
    ("there", "piece_bytes", "want"),
    [
        ([(4, 6)], 3, [(0, 3), (3, 4), (6, 9), (9, 10)]),  # the documented example
        ([], 4, [(0, 4), (4, 8), (8, 10)]),
        ([], 100, [(0, 10)]),
        ([(0, 10)], 4, []),
        ([(0, 4), (2, 10)], 4, []),
        ([(8, 10), (0, 2)], 10, [(2, 8)]),
    ],
)
def test_what_lacks_is_cut_in_pieces(
    there: list[tuple[int, int]], piece_bytes: int, want: list[tuple[int, int]]
) -> None:
    spans = [Span(1, *one) for one in there] + [Span(2, 0, 10)]
    assert missing(spans, 1, 10, piece_bytes) == [Span(1, *one) for one in want]


SPANS = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 50)).map(lambda ends: Span(0, min(ends), max(ends))),
    max_size=8,
)


@given(SPANS, st.integers(1, 60))
def test_what_is_there_and_what_lacks_make_the_whole(spans: list[Span], piece_bytes: int) -> None:
    pieces = missing(spans, 0, 50, piece_bytes)
    there = {byte for span in spans for byte in range(span.start, span.end)}
    lacking = [byte for piece in pieces for byte in range(piece.start, piece.end)]
    assert sorted([*there, *lacking]) == list(range(50))
    assert all(0 < piece.end - piece.start <= piece_bytes for piece in pieces)
    assert sum(span.end - span.start for span in merged(spans, 0)) == len(there)


def test_a_journal_goes_on_where_its_process_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    first = Journal(path, 1000)
    first.add(Span(0, 0, 10))
    first.add(Span(2, 5, 9))
    with path.open("a") as stream:
        stream.write("1")  # the kill cut a line short
    second = Journal(path, 1000)
    assert second.spans == [Span(0, 0, 10), Span(2, 5, 9)]
    second.add(Span(3, 5, 9))
    assert read_spans(path) == [Span(0, 0, 10), Span(2, 5, 9), Span(3, 5, 9)]
    assert read_total(path) == 1000
    first.close()
    second.close()


def test_what_was_written_before_the_machine_was_booted_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    before = Journal(path, 1000)
    before.add(Span(0, 0, 10))
    before.close()
    boot = tmp_path / "boot_id"
    boot.write_text("another-boot\n")
    monkeypatch.setattr(journal, "BOOT_ID", boot)
    assert read_spans(path) == []
    anew = Journal(path, 1000)
    anew.add(Span(1, 0, 5))
    assert read_spans(path) == [Span(1, 0, 5)]
    anew.close()


@pytest.mark.parametrize(
    "text", ["", "\n", "{", "[]", "null", '{"boot": 1}', '{"bytes": "many"}', "0 0 10\n"]
)
def test_nonsense_is_no_journal(text: str, tmp_path: Path) -> None:
    (tmp_path / "journal").write_text(text)
    assert read_spans(tmp_path / "journal") == []
    assert read_total(tmp_path / "journal") == 0
    assert read_total(tmp_path / "absent") == 0
