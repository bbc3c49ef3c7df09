"""Traces: what is read, and what is refused with a message that says how to mend it."""

import gzip
from pathlib import Path

import pytest
from imagefleet_operator.simulate.loads import LOADS, Mix, poisson
from imagefleet_operator.simulate.trace import Request, TraceError, as_many, faster, read_trace


def written(folder: Path, text: str) -> Path:
    path = folder / "trace.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_seconds_are_taken_as_they_are_and_put_in_order(tmp_path: Path) -> None:
    path = written(tmp_path, "arrival,model,seconds\n12.5,b,3\n10,a,2.5\n")
    assert read_trace(path) == (Request(10.0, "a", 2.5), Request(12.5, "b", 3.0))


def test_dates_keep_their_time_of_day(tmp_path: Path) -> None:
    path = written(tmp_path, "timestamp,model,cost\n2026-11-23 01:00:00,a,2\n2026-11-24 02:00:00,a,2\n")
    assert [r.arrival for r in read_trace(path)] == [3600.0, 86_400 + 7200.0]


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = written(tmp_path, "when,what,seconds\n1,a,2\n")
    assert read_trace(path, {"arrival": "when", "model": "what"}) == (Request(1.0, "a", 2.0),)


def test_compressed_traces_are_read(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(gzip.compress(b"arrival,model,seconds\n1,a,2\n"))
    assert len(read_trace(path)) == 1


@pytest.mark.parametrize(
    ("case", "text", "words"),
    [
        ("empty", "", "no column for 'arrival'"),
        ("no requests", "arrival,model,seconds\n", "holds no request"),
        ("other columns", "a,b,c\n1,2,3\n", "looked for arrival, timestamp"),
        ("words for numbers", "arrival,model,seconds\n1,a,long\n", "line 2: 'long' is no number"),
        ("negative", "arrival,model,seconds\n1,a,-2\n", "line 2: '-2' is no number of at least 0"),
        ("not a number", "arrival,model,seconds\n1,a,nan\n", "'nan' is no number"),
        ("a short line", "arrival,model,seconds\n1,a\n", "'None' is no number"),
    ],
)
def test_bad_traces_are_refused(case: str, text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(TraceError) as error:
        read_trace(written(tmp_path, text))
    assert words in str(error.value), case
    assert "trace.csv" in str(error.value)


def test_a_file_that_is_no_gzip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(b"arrival,model,seconds\n")
    with pytest.raises(TraceError, match="cannot be read"):
        read_trace(path)


def test_ten_times_the_rate_keeps_costs() -> None:
    assert faster((Request(60.0, "a", 20.0),), 10) == (Request(6.0, "a", 20.0),)


def test_ten_times_as_many_callers_keep_their_own_pace() -> None:
    trace = (Request(10_000.0, "a", 20.0), Request(10_060.0, "a", 30.0))
    crowd = as_many(trace, 10, 1)
    assert len(crowd) == 20
    assert [r.arrival for r in crowd] == sorted(r.arrival for r in crowd)
    firsts = sorted(r.arrival for r in crowd if r.seconds == 20.0)
    seconds = sorted(r.arrival for r in crowd if r.seconds == 30.0)
    assert [b - a for a, b in zip(firsts, seconds, strict=True)] == pytest.approx([60.0] * 10)
    assert len(set(firsts)) == 10


def test_a_poisson_load_keeps_as_many_busy_as_asked() -> None:
    trace = poisson(5.0, 100_000.0, 1)
    assert sum(r.seconds for r in trace) / 100_000 == pytest.approx(5.0, rel=0.05)
    counts = sorted(sum(r.model == f"model-{k:02}" for r in trace) for k in range(1, Mix().models + 1))
    assert counts[-1] > 10 * counts[0]


@pytest.mark.parametrize("name", LOADS)
def test_loads_are_the_same_for_the_same_seed(name: str) -> None:
    trace = LOADS[name](3.0, 7200.0, 4)
    assert trace == LOADS[name](3.0, 7200.0, 4)
    assert trace != LOADS[name](3.0, 7200.0, 5)
    assert [r.arrival for r in trace] == sorted(r.arrival for r in trace)
    assert trace[-1].arrival < 7200.0


@pytest.mark.parametrize(
    ("name", "busy", "calm"),
    [
        ("flash-crowd", (2700, 3000), (0, 2400)),
        ("single-burst", (3600, 3720), (0, 3600)),
        ("diurnal", None, None),
    ],
)
def test_loads_have_their_bursts(
    name: str, busy: tuple[int, int] | None, calm: tuple[int, int] | None
) -> None:
    hours = 2 if busy else 24
    trace = LOADS[name](10.0, hours * 3600.0, 3)
    busy, calm = busy or (10 * 3600, 14 * 3600), calm or (0, 2 * 3600)

    def rate(span: tuple[int, int]) -> float:
        return sum(span[0] <= r.arrival < span[1] for r in trace) / (span[1] - span[0])

    assert rate(busy) > 2.5 * rate(calm)
