"""Which files of a remote folder a worker needs. Pure: works on the listing alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from imagefleet_runtime.worker.source import PICKLES, SourceError
from imagefleet_runtime.worker.sources.remote import RemoteFile

INDEX = "model_index.json"
SUFFIXES = frozenset({".safetensors", ".json", ".txt", ".model", ".jinja", ".md"})
# Of each part of a name: a plain file name, as all that diffusers and transformers write.
PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", re.ASCII)
MAX_DEPTH = 4
MAX_NAME = 200  # characters; file systems take 255 bytes
# "diffusion_pytorch_model.fp16.safetensors", "model.fp16-00001-of-00002.safetensors" and both forms of their index:
# weights are a variant where more than one name stands before ".safetensors", or one behind ".index".
WEIGHTS = re.compile(r"[^.]+(\.[^.]+)*\.safetensors(\.index(\.[^.]+)?\.json)?")


def of_pipeline(files: Iterable[RemoteFile], index: Mapping[str, Any]) -> list[RemoteFile]:
    """The files that a pipeline with this ``model_index.json`` can need, sorted by name.

    Files at the top (whole checkpoints), of other folders, and in other formats are left out, and so are variants
    (fp16 ...) of weights that are there without one. Raises SourceError (UnsafePath, NoWeights, PickleRefused).
    """
    folders = components(index)
    by_folder: dict[str, list[RemoteFile]] = {folder: [] for folder in folders}
    chosen = []
    for file in files:
        folder, _, rest = file.name.partition("/")
        if file.name == INDEX:
            chosen.append(file)
        elif rest and folder in by_folder:
            by_folder[folder].append(file)
    for folder, inside in by_folder.items():
        chosen += _of_component(folder, inside)
    if not any(_suffix(file) == ".safetensors" for file in chosen):
        raise SourceError("NoWeights", f"no folder that {INDEX} names holds a .safetensors file")
    return _checked(chosen)


def of_adapter(files: Iterable[RemoteFile]) -> list[RemoteFile]:
    """The one ``.safetensors`` file at the top, and configuration beside it. Raises SourceError (AdapterInvalid)."""
    chosen = [file for file in files if "/" not in file.name and _suffix(file) in (".safetensors", ".json")]
    weights = [file.name for file in chosen if _suffix(file) == ".safetensors"]
    if len(weights) != 1:
        raise SourceError(
            "AdapterInvalid",
            f"an adapter's folder holds exactly one .safetensors file, this one {len(weights)}",
        )
    return _checked(chosen)


def components(index: Mapping[str, Any]) -> list[str]:
    """Folders that ``model_index.json`` names: its entries ``[library, class]``, unless they are null.

    Raises SourceError (UnsafePath).
    """
    found = [
        name
        for name, value in index.items()
        if isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)
    ]
    for name in found:
        if not PART.fullmatch(name):
            raise SourceError(
                "UnsafePath", f"{INDEX} names the component {name[:MAX_NAME]!r}, which is no folder's name"
            )
    return found


def _of_component(folder: str, files: list[RemoteFile]) -> list[RemoteFile]:
    allowed = [file for file in files if _suffix(file) in SUFFIXES]
    plain = [file for file in allowed if not _is_variant(file)]
    if any(_is_weights(file) for file in plain):
        return plain
    if len(plain) < len(allowed):
        variant = next(file.name for file in allowed if _is_variant(file))
        raise SourceError(
            "NoWeights",
            f"{folder} has weights only as a variant ({variant}); save the pipeline without variant=, or rename them",
        )
    pickles = [file.name for file in files if _suffix(file) in PICKLES]
    if pickles:
        raise SourceError(
            "PickleRefused",
            f"{folder} has weights only as {pickles[0]}, which could hold a pickle; convert them to safetensors",
        )
    return plain


def _is_weights(file: RemoteFile) -> bool:
    return WEIGHTS.fullmatch(PurePosixPath(file.name).name) is not None


def _is_variant(file: RemoteFile) -> bool:
    match = WEIGHTS.fullmatch(PurePosixPath(file.name).name)
    return match is not None and (match[1] is not None or match[3] is not None)


def _checked(files: list[RemoteFile]) -> list[RemoteFile]:
    """``files`` by name, each a safe one and there once. Raises SourceError (UnsafePath, FetchFailed)."""
    names = set()
    for file in files:
        parts = file.name.split("/")
        safe = len(parts) <= MAX_DEPTH and all(
            PART.fullmatch(part) and len(part) <= MAX_NAME for part in parts
        )
        if not safe:
            raise SourceError(
                "UnsafePath", f"{file.name[:MAX_NAME]!r} is not a name that a worker writes to its disk"
            )
        if file.name in names:
            raise SourceError("UnsafePath", f"the source lists {file.name} twice")
        if file.size < 0 or (file.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", file.sha256)):
            raise SourceError(
                "FetchFailed", f"the source lists {file.name} with an impossible size or digest"
            )
        names.add(file.name)
    return sorted(files, key=lambda file: file.name.encode())


def _suffix(file: RemoteFile) -> str:
    return PurePosixPath(file.name).suffix.lower()
