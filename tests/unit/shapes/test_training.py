from pathlib import Path

import numpy as np
import pytest
import torch

from shapes.captions import parse
from shapes.pipeline import autoencoder
from shapes.scenes import held_out, sample
from shapes.train_unet import Trainer, encode, foreground_weight, learning_rate, text_of
from shapes.train_vae import SHAPE_CODES, batch_of, standardised


@pytest.mark.parametrize(
    ("step", "want"),
    [(0, 5e-6), (199, 1e-3), (6_000, 1e-3), (8_000, 5.05e-4), (10_000, 1e-5), (11_000, 1e-5)],
)
def test_the_learning_rate_rises_stays_and_falls(step: int, want: float) -> None:
    assert learning_rate(step, 10_000) == pytest.approx(want)


def test_things_weigh_more_than_the_background_and_the_mean_stays_one() -> None:
    latents = torch.zeros(1, 4, 8, 8)
    latents[:, :, 2:4, 2:4] = 2.0
    weights = foreground_weight(latents, 4.0)
    assert weights.mean().item() == pytest.approx(1)
    assert (weights[0, 0, 2, 2] / weights[0, 0, 0, 0]).item() == pytest.approx(4)


def test_one_caption_in_ten_is_left_out_and_the_others_say_what_the_picture_shows() -> None:
    rng = np.random.default_rng(0)
    scenes = [sample(rng, 1, test=False) for _ in range(1000)]
    texts = [text_of(scene, rng) for scene in scenes]
    assert 60 <= texts.count("") <= 140
    told = [(text, scene) for text, scene in zip(texts, scenes, strict=True) if text]
    assert sum(scene.things[0].colour in text for text, scene in told) == len(told)
    assert parse("a red circle on white") not in {scene for scene in scenes if held_out(scene)}


def test_standard_latents_decode_to_the_same_pictures() -> None:
    torch.manual_seed(0)
    vae = autoencoder().eval()
    batch = batch_of(np.random.default_rng(1), 16).pixels
    pictures = batch_of(np.random.default_rng(0), 64).pixels
    standard = standardised(vae, pictures)
    with torch.no_grad():
        before = vae.decode(vae.encode(batch).latent_dist.mean).sample
        latents = standard.encode(pictures).latent_dist.mean
        after = standard.decode(standard.encode(batch).latent_dist.mean).sample
    assert torch.allclose(before, after, atol=1e-3)
    assert latents.mean((0, 2, 3)).abs().max() < 1e-2
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 1e-2


def test_the_guide_of_a_latent_pixel_is_the_colour_there_and_the_code_of_the_shape() -> None:
    guide = batch_of(np.random.default_rng(0), 64).guide
    codes = guide[:, 3].abs().amax((1, 2))
    assert guide.shape == (64, 4, 8, 8)
    assert {round(code, 1) for code in codes.tolist()} == {abs(code) for code in SHAPE_CODES.values()}
    assert (guide[:, 3, 0, 0] == 0).all()
    assert guide[:, :3].mean().abs() < 0.3
    assert guide[:, :3].std() == pytest.approx(1, abs=0.2)


def test_a_run_goes_on_from_its_state(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = encode(autoencoder().eval(), 40, 1, tmp_path / "latents.pt")
    first = Trainer(steps=10, seed=1)
    losses = [first.train_step(data) for _ in range(2)]
    torch.save(first.state(), tmp_path / "state.pt")
    second = Trainer(steps=10, seed=2)
    second.restore(tmp_path / "state.pt")
    assert np.isfinite(losses).all()
    assert second.step == 2
    for one, other in zip(first.nets.parameters(), second.nets.parameters(), strict=True):
        assert torch.equal(one, other)
