import pytest
from imagefleet_runtime.worker.deadlines import load_seconds, silence_seconds


@pytest.mark.parametrize(
    ("size_bytes", "want"),
    [
        (0, 600),
        (6_000_000_000, 600),
        (24_000_000_000, 2400),  # the worked example
    ],
)
def test_a_load_may_take_longer_the_larger_the_folder(size_bytes: int, want: float) -> None:
    assert load_seconds(size_bytes, 600) == want


@pytest.mark.parametrize(("estimate", "want"), [(0.0, 300), (2.0, 300), (200.0, 800)])  # the worked examples
def test_a_drawing_may_take_several_times_its_estimate(estimate: float, want: float) -> None:
    assert silence_seconds(estimate, 300) == want
