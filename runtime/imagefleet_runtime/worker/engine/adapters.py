"""LoRA adapters: loaded beside the weights, and switched on for the calls of the requests that name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from imagefleet_runtime.worker.messages import AdapterUse

Use = tuple[tuple[str, float], ...]  # name and scale of each adapter that is on; sorted by name


class AdapterError(Exception):
    """A LoRA that this pipeline cannot take."""


def as_use(adapters: tuple[AdapterUse, ...]) -> Use:
    return tuple(sorted((adapter.name, adapter.scale) for adapter in adapters))


class Adapters:
    """Which adapters are on, for each module. All are off until a call asks for some."""

    def __init__(self, pipe: Any, folders: dict[str, str]) -> None:
        """Raises AdapterError."""
        self.names = tuple(folders)
        self._layers: dict[torch.nn.Module, list[BaseTunerLayer]] = {}
        self._on: dict[torch.nn.Module, Use] = {}
        for name, folder in folders.items():
            _load(pipe, name, Path(folder))
        if folders:
            self._find_layers(pipe)

    def _find_layers(self, pipe: Any) -> None:
        for module in pipe.components.values():
            if not isinstance(module, torch.nn.Module):
                continue
            layers = [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]
            if layers:
                self._layers[module] = layers
                self._switch(module, ())

    def activate(self, module: torch.nn.Module, use: Use) -> None:
        """Make ``module`` compute with the adapters ``use``, and no other."""
        if module in self._layers and self._on[module] != use:
            self._switch(module, use)

    def activate_encoders(self, pipe: Any, use: Use) -> None:
        """The same for the parts of ``pipe`` that a drawing calls before its first step."""
        for name, module in pipe.components.items():
            if name.startswith("text_encoder") and isinstance(module, torch.nn.Module):
                self.activate(module, use)

    def _switch(self, module: torch.nn.Module, use: Use) -> None:
        for layer in self._layers[module]:
            here = [(name, scale) for name, scale in use if name in layer.scaling]
            if here:
                layer.set_adapter([name for name, _scale in here], inference_mode=True)
            for name, scale in here:
                layer.set_scale(name, scale)
            layer.enable_adapters(bool(here))
        self._on[module] = use


def _load(pipe: Any, name: str, folder: Path) -> None:
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        raise AdapterError(
            f"adapter {name!r}: its folder holds {len(files)} .safetensors files; it must hold one"
        )
    if not hasattr(pipe, "load_lora_weights"):
        raise AdapterError(f"{type(pipe).__name__} takes no LoRA adapters")
    try:
        pipe.load_lora_weights(
            str(folder),
            weight_name=files[0].name,
            adapter_name=name,
            local_files_only=True,
            use_safetensors=True,
        )
    except (ValueError, KeyError, RuntimeError, OSError) as error:
        raise AdapterError(
            f"adapter {name!r} does not fit this pipeline: {str(error).splitlines()[0][:200]}"
        ) from None
    # diffusers only warns where a file has nothing for this pipeline.
    if name not in {known for names in pipe.get_list_adapters().values() for known in names}:
        raise AdapterError(f"adapter {name!r} holds no weights for {type(pipe).__name__}")
