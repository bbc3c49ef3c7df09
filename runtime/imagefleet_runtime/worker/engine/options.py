"""The speed options of ``ImageModel.spec.pipeline``: checked against this device, then applied to a loaded pipeline."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from imagefleet_runtime.worker.messages import Options, StepCache

# CUDA compute capability that multiplies float8 (Ada Lovelace).
FLOAT8_CAPABILITY = (8, 9)
# Packages that the attention backends need. ``native`` is torch's own.
ATTENTION_PACKAGES = {"flash": "flash_attn", "sage": "sageattention", "xformers": "xformers"}
# torchao's configuration classes.
QUANTIZATIONS = {
    "int8-weight-only": "Int8WeightOnlyConfig",
    "int8-dynamic": "Int8DynamicActivationInt8WeightConfig",
    "int4-weight-only": "Int4WeightOnlyConfig",
    "float8-weight-only": "Float8WeightOnlyConfig",
    "float8-dynamic": "Float8DynamicActivationFloat8WeightConfig",
}
KNOWN = {
    "dtype": {"auto", "float32", "float16", "bfloat16"},
    "quantization": {"none", *QUANTIZATIONS},
    "compile": {"none", "regional"},
    "attention": {"auto", "native", *ATTENTION_PACKAGES},
}


class UnsupportedOptionError(Exception):
    """This device, or this pipeline, cannot do what the model's options ask; the message says what would work."""


def denoiser(pipe: Any) -> torch.nn.Module:
    """The UNet or transformer: the part that runs at every step."""
    found = getattr(pipe, "transformer", None)
    module = pipe.unet if found is None else found
    assert isinstance(module, torch.nn.Module)
    return module


def choose_dtype(dtype: str, device: str) -> torch.dtype:
    """``auto``: bfloat16 on an accelerator; float32 on a CPU, where half the bits take more time, not less."""
    if dtype == "auto":
        return torch.float32 if device == "cpu" else torch.bfloat16
    found = getattr(torch, dtype)
    assert isinstance(found, torch.dtype)
    return found


def check_device(options: Options, device: str) -> None:
    """Refuse, before any weight is read, what this device cannot do. Raises UnsupportedOptionError."""
    for option, known in KNOWN.items():
        if getattr(options, option) not in known:
            raise UnsupportedOptionError(
                f"{option} {getattr(options, option)} is not known: it must be one of {', '.join(sorted(known))}"
            )
    for check in (_check_quantization, _check_attention, _check_compile):
        check(options, device)


def _check_quantization(options: Options, device: str) -> None:
    if options.quantization.startswith("float8") and not _multiplies_float8(device):
        raise UnsupportedOptionError(
            f"quantization {options.quantization} needs a GPU of compute capability 8.9 or newer, and this is "
            f"{_name(device)}: use int8-weight-only, or none"
        )
    if options.quantization == "int4-weight-only" and device == "cpu":
        raise UnsupportedOptionError(
            "quantization int4-weight-only needs a GPU, and this is a CPU: use int8-weight-only, or none"
        )


def _check_attention(options: Options, device: str) -> None:
    package = ATTENTION_PACKAGES.get(options.attention)
    if package is None:
        return
    if device == "cpu":
        raise UnsupportedOptionError(
            f"attention {options.attention} needs a GPU, and this is a CPU: use native, or auto"
        )
    if importlib.util.find_spec(package) is None:
        raise UnsupportedOptionError(
            f"attention {options.attention} needs the package {package}, which this image does not hold: "
            "add it to the image, or use native"
        )


def _check_compile(options: Options, device: str) -> None:
    if (
        options.compile == "regional"
        and device == "cpu"
        and shutil.which(os.environ.get("CXX", "g++")) is None
    ):
        raise UnsupportedOptionError(
            "compile regional needs a C++ compiler (g++) on a CPU, which this image does not hold: add it, or use none"
        )


def _multiplies_float8(device: str) -> bool:
    return device == "cuda" and torch.cuda.get_device_capability() >= FLOAT8_CAPABILITY


def _name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "a CPU"


def apply(options: Options, pipe: Any, cache_dir: str | None, current_timestep: Callable[[], Any]) -> None:
    """Quantize, compile and so on, in the order in which they build on each other. Raises UnsupportedOptionError."""
    module = denoiser(pipe)
    if options.quantization != "none":
        _quantize(module, options.quantization)
    if options.attention != "auto":
        _call(module, "set_attention_backend", options.attention)
    if options.step_cache is not None:
        _call(module, "enable_cache", _step_cache(options.step_cache, current_timestep))
    if options.compile == "regional":
        if cache_dir is not None:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(cache_dir) / "inductor")
        if not getattr(module, "_repeated_blocks", None):
            raise UnsupportedOptionError(
                f"compile regional: {type(module).__name__} names no repeated blocks; use none"
            )
        module.compile_repeated_blocks(dynamic=True)  # type: ignore[operator]


def _call(module: torch.nn.Module, method: str, argument: Any) -> None:
    """Call a method that not all of diffusers' models have, and that refuses some of those that do."""
    found = getattr(module, method, None)
    if found is None:
        raise UnsupportedOptionError(f"{type(module).__name__} has no {method}; leave the option out")
    try:
        found(argument)
    except (ValueError, RuntimeError, ImportError, KeyError, NotImplementedError) as error:
        raise UnsupportedOptionError(f"{type(module).__name__} refuses {method}: {error}") from None


def _quantize(module: torch.nn.Module, name: str) -> None:
    from torchao import quantization

    quantization.quantize_(module, getattr(quantization, QUANTIZATIONS[name])(), filter_fn=_is_quantized)


def _is_quantized(module: torch.nn.Module, name: str) -> bool:
    """Whether this layer is. Adapters are not: they are small, and their few ranks would lose much."""
    return isinstance(module, torch.nn.Linear) and "lora_" not in name


def _step_cache(cache: StepCache, current_timestep: Callable[[], Any]) -> Any:
    from diffusers import hooks

    if cache.type == "FirstBlock":
        return (
            hooks.FirstBlockCacheConfig()
            if cache.threshold is None
            else hooks.FirstBlockCacheConfig(threshold=cache.threshold)
        )
    if cache.type == "TaylorSeer":
        return hooks.TaylorSeerCacheConfig()
    return hooks.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=current_timestep
    )
