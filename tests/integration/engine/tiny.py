"""Tiny pipelines of several families, with random weights, built without a network."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    ControlNetModel,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from scripts import demo_model

WIDTH = 32  # of the text encoders
HEADS = 2
SEED = 3
# FLUX.2-klein reads its text encoder's layers 9, 18 and 27.
QWEN_LAYERS = 27


def stable_diffusion() -> Any:
    return demo_model.build(SEED)


def inpainting() -> Any:
    """An inpainting model: its UNet sees the masked picture beside the noise, nine channels in all."""
    parts = _parts(stable_diffusion())
    torch.manual_seed(SEED)
    parts["unet"] = UNet2DConditionModel.from_config(parts["unet"].config, in_channels=9)
    return StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False)


def plain_model_saved_for_inpainting() -> Any:
    """A plain model in a folder that was saved from an inpainting pipeline, as many on the hub were."""
    return StableDiffusionInpaintPipeline(**_parts(stable_diffusion()), requires_safety_checker=False)


def control_net() -> Any:
    parts = _parts(stable_diffusion())
    torch.manual_seed(SEED)
    guide = ControlNetModel.from_unet(parts["unet"], conditioning_embedding_out_channels=(4, 8, 8, 8))
    # Trained ones are not zero here; as they are made, they would guide nothing.
    for layer in [
        *guide.controlnet_down_blocks,
        guide.controlnet_mid_block,
        guide.controlnet_cond_embedding.conv_out,
    ]:
        torch.nn.init.normal_(layer.weight, std=5.0)
    return StableDiffusionControlNetPipeline(**parts, controlnet=guide, requires_safety_checker=False)


def broken() -> Any:
    """A pipeline that draws NaN, as float16 does with some VAEs."""
    pipe = stable_diffusion()
    with torch.no_grad():
        pipe.vae.decoder.conv_out.bias.fill_(math.nan)
    return pipe


def stable_diffusion_xl() -> Any:
    torch.manual_seed(SEED)
    tokenizer = _clip_tokenizer()
    return StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_clip_config(tokenizer)),
        text_encoder_2=CLIPTextModelWithProjection(_clip_config(tokenizer)),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            transformer_layers_per_block=(1, 2),
            projection_class_embeddings_input_dim=6 * 8 + WIDTH,
            cross_attention_dim=2 * WIDTH,
            norm_num_groups=4,
        ),
        scheduler=EulerDiscreteScheduler(
            beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"
        ),
        add_watermarker=False,
    )


def stable_diffusion_3() -> Any:
    torch.manual_seed(SEED)
    tokenizer, t5 = _clip_tokenizer(), _t5_tokenizer()
    return StableDiffusion3Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(latent_channels=16, shift_factor=0.06),  # 16: the inpainting pipeline insists
        text_encoder=CLIPTextModelWithProjection(_clip_config(tokenizer)),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(_clip_config(tokenizer)),
        tokenizer_2=tokenizer,
        text_encoder_3=_t5_encoder(len(t5), width=2 * WIDTH),
        tokenizer_3=t5,
        transformer=SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=HEADS,
            joint_attention_dim=2 * WIDTH,
            caption_projection_dim=8 * HEADS,
            pooled_projection_dim=2 * WIDTH,
            pos_embed_max_size=32,
            qk_norm="rms_norm",
        ),
    )


def flux() -> Any:
    torch.manual_seed(SEED)
    tokenizer, t5 = _clip_tokenizer(), _t5_tokenizer()
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(latent_channels=4, shift_factor=0.1),
        text_encoder=CLIPTextModel(_clip_config(tokenizer)),
        tokenizer=tokenizer,
        text_encoder_2=_t5_encoder(len(t5), width=WIDTH),
        tokenizer_2=t5,
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=HEADS,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=WIDTH,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=True,
        ),
    )


def flux_2_klein() -> Any:
    torch.manual_seed(SEED)
    tokenizer = _qwen_tokenizer()
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=AutoencoderKLFlux2(
            block_out_channels=(4, 4, 8, 8), latent_channels=4, norm_num_groups=4, layers_per_block=1
        ),
        text_encoder=Qwen3ForCausalLM(_qwen_config(len(tokenizer), layers=QWEN_LAYERS)),
        tokenizer=tokenizer,
        transformer=Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=HEADS,
            joint_attention_dim=3 * WIDTH,
            timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        ),
    )


def z_image() -> Any:
    torch.manual_seed(SEED)
    tokenizer = _qwen_tokenizer()
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=HEADS,
        n_kv_heads=HEADS,
        cap_feat_dim=WIDTH,
        axes_dims=[4, 6, 6],
    )
    for pad in (transformer.x_pad_token, transformer.cap_pad_token):
        torch.nn.init.normal_(pad)
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(latent_channels=4, shift_factor=0.1),
        text_encoder=Qwen3Model(_qwen_config(len(tokenizer), layers=2)),
        tokenizer=tokenizer,
        transformer=transformer,
    )


def pixart() -> Any:
    """A family whose denoiser is not known here."""
    torch.manual_seed(SEED)
    t5 = _t5_tokenizer()
    return PixArtSigmaPipeline(
        tokenizer=t5,
        text_encoder=_t5_encoder(len(t5), width=WIDTH),
        vae=_vae(latent_channels=4),
        transformer=PixArtTransformer2DModel(
            sample_size=32,  # the smallest for which the pipeline knows sizes: it draws 256x256, then shrinks
            num_layers=1,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=HEADS,
            caption_channels=WIDTH,
            in_channels=4,
            cross_attention_dim=8 * HEADS,
            out_channels=8,
            norm_type="ada_norm_single",
            norm_elementwise_affine=False,
            norm_eps=1e-6,
            use_additional_conditions=False,
        ),
        scheduler=EulerDiscreteScheduler(),
    )


FAMILIES: dict[str, Callable[[], Any]] = {
    "stable_diffusion": stable_diffusion,
    "stable_diffusion_xl": stable_diffusion_xl,
    "stable_diffusion_3": stable_diffusion_3,
    "flux": flux,
    "flux_2_klein": flux_2_klein,
    "z_image": z_image,
}
OTHERS: dict[str, Callable[[], Any]] = {
    "inpainting": inpainting,
    "plain_model_saved_for_inpainting": plain_model_saved_for_inpainting,
    "control_net": control_net,
    "pixart": pixart,
    "broken": broken,
}


def write(name: str, folder: Path) -> None:
    """The pipeline ``name`` of FAMILIES or OTHERS, as a worker finds it."""
    {**FAMILIES, **OTHERS}[name]().save_pretrained(folder, safe_serialization=True)


def _parts(pipe: Any) -> dict[str, Any]:
    return {name: part for name, part in pipe.components.items() if name != "image_encoder"}


def _vae(latent_channels: int = 4, **config: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=[4, 4, 8, 8],
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        latent_channels=latent_channels,
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=0.5,
        **config,
    )


def _clip_tokenizer() -> CLIPTokenizer:
    return demo_model.build(SEED).tokenizer


def _clip_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _t5_tokenizer() -> T5Tokenizer:
    pieces = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", -2.0),
        *((letter, -1.0) for letter in "▁abcdefghilmnorstuvw"),
    ]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def _t5_encoder(words: int, width: int) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(vocab_size=words, d_model=width, d_kv=8, d_ff=width, num_layers=1, num_heads=HEADS)
    )


def _qwen_tokenizer() -> Qwen2Tokenizer:
    words = [*sorted(ByteLevel.alphabet()), "<|endoftext|>"]
    tokenizer = Qwen2Tokenizer(
        vocab={word: index for index, word in enumerate(words)}, merges=[], model_max_length=512
    )
    tokenizer.chat_template = (
        "{% for message in messages %}user: {{ message['content'] }} {% endfor %}assistant:"
    )
    return tokenizer


def _qwen_config(words: int, layers: int) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=words,
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=WIDTH // HEADS,
    )
