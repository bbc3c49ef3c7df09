"""What is in a model's folder: its digest, and whether a worker may load it. Reads files; imports no torch.

A SourceError is a finding about the folder, files that may not be read included. Any other OSError (a broken disk) is
a failure to find out, and passes through to the caller, who may try again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

PVC_ROOT = Path("/pvc")
PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
AUTO_CLASS = "AutoPipelineForText2Image"
CLASS_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# sha256sum escapes names with these, and takes a leading "-" for an option: refused, so that the documented shell
# command and this module always agree.
ODD_NAME = re.compile(rb"[\n\r\\]|^-")
# Tensors of a LoRA, as diffusers, PEFT and kohya name them.
LORA_DOWN = re.compile(r"lora_A\b|lora[._]down\b")
LORA_NAME = re.compile(r"lora|\.(alpha|dora_scale)$")
# Hashing is bound by the disk or by one core for each file; a few at a time fill both.
HASH_THREADS = 4


class SourceError(Exception):
    """A folder that must not be loaded. ``reason`` is one of the contract's."""

    def __init__(self, reason: str, message: str, digest: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.digest = digest


@dataclass(frozen=True)
class File:
    name: bytes  # relative to the folder
    path: str
    size: int  # bytes
    mtime_ns: int
    inode: int


@dataclass(frozen=True)
class Source:
    digest: str
    bytes: int
    files: int
    class_name: str


@dataclass(frozen=True)
class Adapter:
    digest: str
    bytes: int


class DigestCache:
    """File digests by identity (path, size, modification time, inode), so that a second load hashes nothing.

    A file that is changed without a change of any of these is not noticed: weights belong on a read-only volume.
    """

    def __init__(self) -> None:
        self._digests: dict[File, str] = {}

    def sha256(self, file: File) -> str:
        known = self._digests.get(file)
        if known is None:
            with open(file.path, "rb") as stream:
                known = hashlib.file_digest(stream, "sha256").hexdigest()
            self._digests[file] = known
        return known

    def remember(self, file: File, sha256: str) -> None:
        """``sha256`` was found out while ``file`` was written."""
        self._digests[file] = sha256


def folder_of(uri: str) -> Path:
    """The folder that ``uri`` (``file:///abs/path`` or ``pvc://CLAIM/path``) names inside a pod.

    Raises SourceError (UnsafePath).
    """
    scheme, _, rest = uri.partition("://")
    if ".." in rest.split("/"):
        raise SourceError("UnsafePath", f"the path of {uri} leads upwards ('..')")
    if scheme == "file" and rest.startswith("/"):
        return Path(rest)
    if scheme == "pvc" and rest and not rest.startswith("/"):
        return PVC_ROOT / rest
    raise SourceError("UnsafePath", f"{uri} is neither file:///absolute/path nor pvc://CLAIM/path")


def inspect(
    folder: Path, cache: DigestCache, *, digest: str | None = None, class_name: str | None = None
) -> Source:
    """Check ``folder`` and hash it. Raises SourceError; ``digest`` and ``class_name`` are checked where given."""
    files = scan(folder)
    _refuse_pickles(files)
    found_class = pipeline_class(folder)
    _require_weights(files)
    if class_name not in (None, AUTO_CLASS, found_class):
        raise SourceError("ClassMismatch", f"model_index.json says {found_class}, not {class_name}")
    with _refusing_unreadable():
        found = folder_digest(files, cache)
    if digest is not None and digest != found:
        raise SourceError("DigestMismatch", f"the folder's digest is {found}, not {digest}", digest=found)
    return Source(found, sum(file.size for file in files), len(files), found_class)


def inspect_adapter(folder: Path, cache: DigestCache, *, digest: str | None = None) -> Adapter:
    """Check an adapter's ``folder``: one ``.safetensors`` file, at its top, that holds a LoRA; hash all of it.

    Raises SourceError (AdapterInvalid, and as ``inspect``).
    """
    files = scan(folder)
    _refuse_pickles(files)
    weights = [file for file in files if _suffix(file) == ".safetensors"]
    if len(weights) != 1 or b"/" in weights[0].name:
        raise SourceError(
            "AdapterInvalid",
            f"an adapter's folder holds exactly one .safetensors file, at its top; {folder} has {len(weights)} in all",
        )
    with _refusing_unreadable():
        _require_lora(weights[0])
        found = folder_digest(files, cache)
    if digest is not None and digest != found:
        raise SourceError("DigestMismatch", f"the adapter's digest is {found}, not {digest}", digest=found)
    return Adapter(found, sum(file.size for file in files))


def _require_lora(file: File) -> None:
    """Raises SourceError (AdapterInvalid) unless its tensors are named as those of a LoRA."""
    with open(file.path, "rb"):  # safetensors tells of a missing permission in words only
        pass
    try:
        with safe_open(file.path, "numpy") as tensors:
            names = list(tensors.keys())
    except SafetensorError as error:
        raise SourceError(
            "AdapterInvalid", f"{os.fsdecode(file.name)} is no safetensors file: {error}"
        ) from None
    odd = [name for name in names if not LORA_NAME.search(name)]
    if odd or not any(LORA_DOWN.search(name) for name in names):
        shown = f"it holds {odd[0][:100]!r}" if odd else "it holds no down projection"
        raise SourceError(
            "AdapterInvalid",
            f"{os.fsdecode(file.name)} is no LoRA in the form of diffusers or PEFT: {shown}",
        )


def scan(folder: Path) -> list[File]:
    """All files of ``folder``, sorted bytewise by relative name.

    Raises SourceError (SourceNotFound, SourceUnreadable, UnsafePath).
    """
    with _refusing_unreadable():
        if not folder.is_dir():
            raise SourceError("SourceNotFound", f"there is no folder {folder}")
        root = os.path.realpath(folder)
        return sorted(_walk(os.fsencode(root), b"", root), key=lambda file: file.name)


@contextlib.contextmanager
def _refusing_unreadable() -> Iterator[None]:
    """Turn a PermissionError into SourceError (SourceUnreadable)."""
    try:
        yield
    except PermissionError as error:
        path = os.fsdecode(error.filename or "the folder").rstrip("/")
        raise SourceError(
            "SourceUnreadable",
            f"{path}: {error.strerror}; make its files readable and its folders searchable by uid {os.getuid()}, "
            "for one with chmod -R a+rX",
        ) from None


def _walk(root: bytes, prefix: bytes, real_root: str) -> Iterator[File]:
    with os.scandir(os.path.join(root, prefix)) as entries:
        for entry in entries:
            name = prefix + entry.name
            if ODD_NAME.search(name):
                raise SourceError(
                    "UnsafePath", f"rename {os.fsdecode(name)!r}: no line breaks, backslash or leading '-'"
                )
            if entry.is_symlink():
                _check_link(os.fsdecode(entry.path), os.fsdecode(name), real_root)
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(root, name + b"/", real_root)
            elif entry.is_file():
                stat = entry.stat()
                yield File(name, os.fsdecode(entry.path), stat.st_size, stat.st_mtime_ns, stat.st_ino)


def _check_link(path: str, name: str, real_root: str) -> None:
    target = os.path.realpath(path)
    if not target.startswith(real_root + os.sep):
        raise SourceError("UnsafePath", f"the link {name} leads out of the folder; copy the file into it")
    if not os.path.isfile(target):
        raise SourceError("UnsafePath", f"the link {name} does not lead to a file")


def _refuse_pickles(files: list[File]) -> None:
    found = [os.fsdecode(file.name) for file in files if _suffix(file) in PICKLES]
    if found:
        shown = ", ".join(found[:5]) + (" and more" if len(found) > 5 else "")
        raise SourceError(
            "PickleRefused", f"{shown} could hold a pickle, which runs code when loaded; delete or convert"
        )


def _require_weights(files: list[File]) -> None:
    if not any(_suffix(file) == ".safetensors" for file in files):
        raise SourceError("NoWeights", "the folder holds no .safetensors file")


def _suffix(file: File) -> str:
    return os.path.splitext(os.fsdecode(file.name))[1].lower()


def pipeline_class(folder: Path) -> str:
    """``_class_name`` of ``model_index.json``. Raises SourceError (NotAPipeline)."""
    return str(read_index(folder)["_class_name"])


def read_index(folder: Path) -> dict[str, Any]:
    """``model_index.json`` of ``folder``, with a ``_class_name`` that is a plain name. Raises SourceError."""
    file = folder / "model_index.json"
    with _refusing_unreadable():
        if not file.is_file():  # a named pipe would never end
            raise SourceError("NotAPipeline", "the folder holds no model_index.json")
        text = file.read_bytes()
    return parse_index(text)


def parse_index(text: bytes) -> dict[str, Any]:
    """A ``model_index.json``, with a ``_class_name`` that is a plain name. Raises SourceError (NotAPipeline)."""
    try:
        index = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceError("NotAPipeline", f"model_index.json is not JSON: {error}") from None
    name = index.get("_class_name") if isinstance(index, dict) else None
    # A pair [module, class] would name code that comes with the model.
    if not isinstance(name, str) or not CLASS_NAME.fullmatch(name):
        raise SourceError("NotAPipeline", "model_index.json names no pipeline class (_class_name)")
    return dict(index)


def folder_digest(files: list[File], cache: DigestCache) -> str:
    """The digest of the folder that holds ``files`` (sorted by name), which are read where ``cache`` must."""
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        return digest_of(zip((file.name for file in files), pool.map(cache.sha256, files), strict=True))


def digest_of(files: Iterable[tuple[bytes, str]]) -> str:
    """``sha256:`` and the SHA-256 of what ``sha256sum`` prints for ``files``, pairs of name and hash, sorted by name:
    "HASH, two spaces, NAME"."""
    whole = hashlib.sha256()
    for name, digest in files:
        whole.update(digest.encode() + b"  " + name + b"\n")
    return f"sha256:{whole.hexdigest()}"


def total_bytes(folder: Path) -> int:
    """Size of all files of ``folder``. Raises SourceError."""
    return sum(file.size for file in scan(folder))


def signature(folder: Path) -> object:
    """Equal for equal folders, by names, sizes, times and permission to read: tells without hashing that a refused
    folder was mended."""
    try:
        return [(file, os.access(file.path, os.R_OK)) for file in scan(folder)]
    except SourceError as error:
        return error.reason, error.message
    except OSError as error:
        return str(error)
