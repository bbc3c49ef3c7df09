import pytest

from shapes.captions import parse
from shapes.evaluate import Accuracy, accuracy, held_out_prompts, summary
from shapes.scenes import held_out
from shapes.scorer import Score


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(90, 100, 0.826, 0.945), (0, 10, 0.0, 0.278), (10, 10, 0.722, 1.0), (1, 2, 0.095, 0.905)],
)
def test_the_interval_is_wilsons(right: int, count: int, low: float, high: float) -> None:
    assert Accuracy(right, count).interval() == pytest.approx((low, high), abs=1e-3)


@pytest.mark.parametrize("things", [1, 2])
def test_the_prompts_of_an_evaluation_were_never_trained_and_are_the_same_each_time(things: int) -> None:
    asked = held_out_prompts(things, 50, seed=1)
    assert asked == held_out_prompts(things, 50, seed=1)
    assert asked != held_out_prompts(things, 50, seed=2)
    for prompt, scene in asked:
        assert held_out(scene)
        assert parse(prompt) == scene


def test_a_picture_counts_as_right_only_when_all_its_parts_are() -> None:
    results = [Score({"colour 1": 1.0, "shape 1": 0.5}), Score({"colour 1": 0.7, "shape 1": 1.0})]
    assert accuracy(results) == Accuracy(1, 2)
    assert accuracy(results, "colour 1") == Accuracy(2, 2)
    assert summary(results) == {"correct": 0.5, "colour 1": 1.0, "shape 1": 0.5}
