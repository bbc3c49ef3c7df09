"""How often the demo model draws what it is told: held-out captions, 64x64, the scorer of `shapes`.

The baseline of `prompt_accuracy` is the degraded model, asked for the same pictures in the same run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.report import figure, progress
from shapes import pipeline
from shapes.evaluate import Accuracy, accuracy, held_out_prompts, scores
from shapes.scenes import Scene
from shapes.scorer import Score

MODELS = Path("build/models")
PICTURES = 200
SEED = 0

Asked = Sequence[tuple[str, Scene]]


def report(name: str, measured: Accuracy, baseline: Accuracy | None = None) -> None:
    """Print one accuracy, and on standard error how sure it is."""
    figure(name, measured.share, "ratio", baseline.share if baseline else None)
    low, high = measured.interval()
    progress(f"{name}: {measured.right} of {measured.count} pictures, 95 % interval {low:.3f} to {high:.3f}")


def draw(model: str, asked: Asked) -> list[Score]:
    """Draw the prompts with one model and score them."""
    progress(f"{model}: {len(asked)} pictures")
    return scores(pipeline.load(MODELS / model), asked, seed=SEED)


def main() -> None:
    """Measure both versions and the degraded one."""
    one, two = (held_out_prompts(things, PICTURES, SEED) for things in (1, 2))
    single = draw("shapes-2", one)
    report("prompt_accuracy", accuracy(single), accuracy(draw("shapes-degraded", one)))
    for part, name in (("background", "background"), ("colour 1", "colour"), ("shape 1", "shape")):
        report(f"{name}_accuracy", accuracy(single, part))
    pair = draw("shapes-2", two)
    report("two_object_accuracy", accuracy(pair))
    report("relation_accuracy", accuracy(pair, "relation"))
    report("prompt_accuracy_shapes_1", accuracy(draw("shapes-1", one)))


if __name__ == "__main__":
    main()
