"""Which class draws in which mode, by the names and arguments of diffusers' classes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
from imagefleet_runtime.worker.engine import modes
from imagefleet_runtime.worker.messages import Mode

T2I: Mode = "text-to-image"
I2I: Mode = "image-to-image"
INPAINT: Mode = "inpainting"


def a_pipe(name: str, *, latents: int = 4, channels: int = 4) -> Any:
    """A pipeline of the class ``name`` whose parts are all there, but empty."""
    wanted = getattr(diffusers, name)
    parts = dict.fromkeys(modes._required(wanted))
    pipe = wanted.__new__(wanted)
    denoiser = SimpleNamespace(config=SimpleNamespace(in_channels=channels))
    vae = SimpleNamespace(config=SimpleNamespace(latent_channels=latents))
    vars(pipe).update(parts, unet=denoiser if "unet" in parts else None, vae=vae)
    if "controlnet" in parts:
        vars(pipe)["controlnet"] = object()
    return pipe


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "StableDiffusionPipeline",
            {
                T2I: "StableDiffusionPipeline",
                I2I: "StableDiffusionImg2ImgPipeline",
                INPAINT: "StableDiffusionInpaintPipeline",
            },
        ),
        (
            "StableDiffusionXLImg2ImgPipeline",
            {
                T2I: "StableDiffusionXLPipeline",
                I2I: "StableDiffusionXLImg2ImgPipeline",
                INPAINT: "StableDiffusionXLInpaintPipeline",
            },
        ),
        ("FluxPipeline", {T2I: "FluxPipeline", I2I: "FluxImg2ImgPipeline", INPAINT: "FluxInpaintPipeline"}),
        ("FluxFillPipeline", {INPAINT: "FluxFillPipeline"}),
        (
            "FluxKontextPipeline",
            {T2I: "FluxKontextPipeline", I2I: "FluxKontextPipeline", INPAINT: "FluxKontextInpaintPipeline"},
        ),
        (
            "Flux2KleinPipeline",
            {T2I: "Flux2KleinPipeline", I2I: "Flux2KleinPipeline", INPAINT: "Flux2KleinInpaintPipeline"},
        ),
        (
            "ZImagePipeline",
            {T2I: "ZImagePipeline", I2I: "ZImageImg2ImgPipeline", INPAINT: "ZImageInpaintPipeline"},
        ),
        (
            "StableDiffusion3Pipeline",
            {
                T2I: "StableDiffusion3Pipeline",
                I2I: "StableDiffusion3Img2ImgPipeline",
                INPAINT: "StableDiffusion3InpaintPipeline",
            },
        ),
        (
            "QwenImagePipeline",
            {T2I: "QwenImagePipeline", I2I: "QwenImageImg2ImgPipeline", INPAINT: "QwenImageInpaintPipeline"},
        ),
        ("SanaPipeline", {T2I: "SanaPipeline"}),
        ("PixArtSigmaPipeline", {T2I: "PixArtSigmaPipeline"}),
    ],
)
def test_each_mode_has_its_class(name: str, expected: dict[Mode, str]) -> None:
    found = modes.Modes(a_pipe(name))
    assert {mode: found.class_for(mode, control=False).__name__ for mode in found.available()} == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "StableDiffusionControlNetPipeline",
            {
                T2I: "StableDiffusionControlNetPipeline",
                I2I: "StableDiffusionControlNetImg2ImgPipeline",
                INPAINT: "StableDiffusionControlNetInpaintPipeline",
            },
        ),
        (
            "StableDiffusionXLControlNetPipeline",
            {
                T2I: "StableDiffusionXLControlNetPipeline",
                I2I: "StableDiffusionXLControlNetImg2ImgPipeline",
                INPAINT: "StableDiffusionXLControlNetInpaintPipeline",
            },
        ),
        (
            "FluxControlNetPipeline",
            {
                T2I: "FluxControlNetPipeline",
                I2I: "FluxControlNetImg2ImgPipeline",
                INPAINT: "FluxControlNetInpaintPipeline",
            },
        ),
        (
            "StableDiffusion3ControlNetPipeline",
            {T2I: "StableDiffusion3ControlNetPipeline", I2I: None, INPAINT: None},
        ),
        ("StableDiffusionPipeline", {T2I: None, I2I: None, INPAINT: None}),
    ],
)
def test_each_mode_has_its_class_with_a_control_net(name: str, expected: dict[Mode, str | None]) -> None:
    found = modes.Modes(a_pipe(name))
    classes = {mode: found.class_for(mode, control=True) for mode in expected}
    assert {mode: one and one.__name__ for mode, one in classes.items()} == expected
    assert found.control_net == ("ControlNet" in name)


def test_an_inpainting_model_does_nothing_else() -> None:
    """Its UNet has nine channels: noise, mask and the masked picture."""
    assert modes.Modes(a_pipe("StableDiffusionInpaintPipeline", channels=9)).available() == (INPAINT,)
    assert modes.Modes(a_pipe("StableDiffusionPipeline", channels=9)).available() == (INPAINT,)


def test_a_mode_that_there_is_not_is_refused() -> None:
    with pytest.raises(
        modes.NotTextToImageError, match="PixArtSigmaPipeline cannot do inpainting with a control image"
    ):
        modes.Modes(a_pipe("PixArtSigmaPipeline")).pipe(INPAINT, control=True)


@pytest.mark.parametrize(
    ("parts", "multiple"),
    [
        ({"vae_scale_factor": 8}, 8),
        ({"vae_scale_factor": 8, "patch": 2}, 16),
        ({"vae_scale_factor": 8, "patch": 1, "processed": 16}, 16),
        ({"vae_scale_factor": 32, "patch": 1}, 32),
        (
            {"vae_scale_factor": 8, "patch": [1, 2, 2], "processed": 16},
            16,
        ),  # a list, for frames, height and width
        ({}, 8),
    ],
)
def test_sizes_are_multiples_of_what_the_parts_need(parts: dict[str, Any], multiple: int) -> None:
    pipe = SimpleNamespace(
        transformer=SimpleNamespace(config=SimpleNamespace(patch_size=parts.get("patch", 1))),
        image_processor=SimpleNamespace(config=SimpleNamespace(vae_scale_factor=parts.get("processed", 1))),
        **({"vae_scale_factor": parts["vae_scale_factor"]} if "vae_scale_factor" in parts else {}),
    )
    assert modes.size_multiple(pipe) == multiple


@pytest.mark.parametrize("name", ["NoSuchPipeline", "AutoencoderKL", "logging"])
def test_a_name_that_is_no_pipeline_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(modes.NotTextToImageError, match="has no pipeline"):
        modes.find_class(name, tmp_path)
