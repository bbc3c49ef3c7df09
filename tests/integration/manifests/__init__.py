"""The manifests of the API's tests; README.md beside this says how a bad one tells what it expects."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent

_CONDITION = re.compile(r"(?P<kind>\w+)/(?P<type>\w+)=(?P<status>\w+) (?P<reason>\w+)")


@dataclass(frozen=True)
class ExpectedCondition:
    """What the operator is to say of the last document of a file."""

    kind: str
    type: str
    status: str
    reason: str


@dataclass(frozen=True)
class BadManifest:
    """One mistake: either `refusal`, a pattern of what kubectl prints, or `condition`."""

    path: Path
    documents: tuple[dict[str, Any], ...]
    refusal: str | None
    condition: ExpectedCondition | None


def good_manifests() -> list[Path]:
    """Files that the API server takes."""
    return sorted((FOLDER / "good").glob("*.yaml"))


def refused_manifests() -> list[BadManifest]:
    """Files that the API server refuses."""
    return [manifest for manifest in bad_manifests() if manifest.refusal is not None]


def condition_manifests() -> list[BadManifest]:
    """Files that the API server takes and the operator finds wrong."""
    return [manifest for manifest in bad_manifests() if manifest.condition is not None]


def bad_manifests() -> list[BadManifest]:
    """Every file of `bad/`. Raises ValueError for one whose first line does not say what it expects."""
    return [_read(path) for path in sorted((FOLDER / "bad").glob("*.yaml"))]


def _read(path: Path) -> BadManifest:
    text = path.read_text(encoding="utf-8")
    documents = tuple(yaml.safe_load_all(text))
    header = text.splitlines()[0]
    if header.startswith("# expect: "):
        return BadManifest(path, documents, header.removeprefix("# expect: "), None)
    match = _CONDITION.fullmatch(header.removeprefix("# condition: "))
    if match is None:
        raise ValueError(
            f"{path}: the first line must be `# expect: REGEX` or `# condition: KIND/TYPE=STATUS REASON`"
        )
    return BadManifest(path, documents, None, ExpectedCondition(**match.groupdict()))
