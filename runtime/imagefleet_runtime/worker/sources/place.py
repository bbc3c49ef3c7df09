"""What a model or an adapter is fetched from."""

from __future__ import annotations

from dataclasses import dataclass


class FetchStoppedError(Exception):
    """The one who asked for a fetch has withdrawn it. What was fetched so far is kept, and a later fetch goes on."""


@dataclass(frozen=True)
class Place:
    """Where a folder is: ``path`` in this pod, or a remote ``uri``; exactly one of them is set."""

    path: str | None
    uri: str | None
    credentials: str | None = (
        None  # the folder that the Secret is mounted at; None: the pod's identity, else none
    )
    digest: str | None = None  # the folder digest that it must have; None only where it is being found out
    adapter: bool = False  # a LoRA: one .safetensors file, not a pipeline
