"""The command `imagefleet simulate`."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from imagefleet_operator.simulate.main import main
from imagefleet_operator.simulate.report import plot, quantile

SMALL = ["simulate", "--hours", "1", "--workers", "2", "--load", "poisson"]


def test_a_table_has_a_line_for_each_policy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--peers", "hpa"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:26].strip() for line in lines] == [
        "policy",
        "imagefleet",
        "hpa, pool a model",
        "hpa, shared workers",
        "at least, knowing all",
    ]


def test_json_has_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--json", "--cost-per-gpu-hour", "2"]) == 0
    got = json.loads(capsys.readouterr().out)
    ours = got["policies"][0]
    assert ours["gpu_hours"] >= got["boundGpuHours"] >= ours["busy_hours"]
    assert ours["cost"] == pytest.approx(2 * ours["gpu_hours"])
    assert ours["requests"] > 200


def test_more_workers_at_least_hold_more(capsys: pytest.CaptureFixture[str]) -> None:
    held = []
    for least in ("1", "12"):
        assert main([*SMALL, "--json", "--min-replicas", least]) == 0
        held.append(json.loads(capsys.readouterr().out)["policies"][0]["gpu_hours"])
    assert held[0] < held[1]


def test_a_trace_is_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.csv"
    path.write_text("when,model,seconds\n0,a,20\n600,a,20\n", encoding="utf-8")
    assert main(["simulate", str(path), "--arrival-column", "when", "--times", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["policies"][0]["requests"] == 2


def test_a_plot_is_an_svg_with_a_line_for_each_policy(tmp_path: Path) -> None:
    path = tmp_path / "p.svg"
    assert main([*SMALL, "--peers", "kpa", "--plot", str(path)]) == 0
    lines = ElementTree.fromstring(path.read_text(encoding="utf-8")).findall("{*}polyline")  # noqa: S314 - our own
    assert len(lines) == 3


def test_a_plot_keeps_peaks() -> None:
    drawn = plot({"a<b": [(0.0, 1), (5000.0, 9), (5001.0, 1), (100_000.0, 1)]}, "t")
    assert "a&lt;b" in drawn
    assert ">9<" in drawn


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["simulate", "/nonexistent.csv"], "cannot be read"),
        (
            [*SMALL, "--min-replicas", "5", "--max-replicas", "4"],
            "--max-replicas is less than --min-replicas",
        ),
        (["simulate", "--hours", "0.000001"], "ask for more --hours"),
    ],
)
def test_what_is_wrong_is_said(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "option",
    ["--hours=-1", "--hours=nan", "--objective=0", "--objective=1.5", "--min-replicas=1.5", "--load=none"],
)
def test_arguments_out_of_range_are_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["simulate", option])
    assert end.value.code == 2
    assert option.split("=")[0] in capsys.readouterr().err


@pytest.mark.parametrize(("share", "want"), [(0.5, 2.0), (0.99, 3.0), (0.0, 1.0), (1.0, 3.0)])
def test_quantiles(share: float, want: float) -> None:
    assert quantile([1.0, 2.0, 3.0], share) == want
    assert quantile([], share) == 0.0
