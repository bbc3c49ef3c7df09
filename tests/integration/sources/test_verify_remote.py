"""``imagefleet-worker verify`` for remote sources and adapters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.integration.sources.conftest import Kept, write_secret
from tests.integration.sources.model import size_of
from tests.servers import start
from tests.unit.worker.test_source import shell_digest


def verify(folder: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "imagefleet_runtime.worker.main", "verify", *arguments]
    env = {
        **os.environ,
        "IMAGEFLEET_CACHE_DIR": str(folder / "cache"),
        "IMAGEFLEET_CACHE_BYTES": "900000000",
        "IMAGEFLEET_SOURCE_LIMIT_BYTES": "9000000",
    }
    done = subprocess.run(
        [*command, "--report", str(folder / "report")], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads((folder / "report").read_bytes()))


@pytest.fixture
def adapter(registry: start.Running, tmp_path: Path) -> tuple[str, Path]:
    """The URI of a LoRA, and its files that count."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    weights = {f"unet.mid.lora_{side}.weight": np.zeros((2, 2), np.float32) for side in "AB"}
    save_file(weights, folder / "pytorch_lora_weights.safetensors")
    start.push(registry, "team-a/pixel", "v1", folder)
    return f"oci://127.0.0.1:{registry.port}/team-a/pixel:v1", folder


def test_a_remote_model_and_its_adapters_are_reported(
    in_s3: Kept, adapter: tuple[str, Path], tmp_path: Path
) -> None:
    place = in_s3.place(tmp_path)
    uri, folder = adapter
    secret = write_secret(tmp_path / "pull", {"username": "nobody", "password": "asked for"})
    finding = verify(
        tmp_path,
        *("--uri", in_s3.uri, "--credentials", str(place.credentials)),
        *("--class-name", "StableDiffusionPipeline", "--digest", in_s3.model.digest),
        *("--adapter", f"pixel={uri}#{shell_digest(folder)}", "--adapter-credentials", f"pixel={secret}"),
        *("--adapter", f"same-folder=file://{folder}"),
    )
    checked = {"digest": shell_digest(folder), "bytes": size_of(folder)}
    assert finding == {
        "ok": True,
        "digest": in_s3.model.digest,
        "bytes": size_of(in_s3.model.folder),
        "files": 8,
        "className": "StableDiffusionPipeline",
        "adapters": [{"name": "pixel", **checked}, {"name": "same-folder", **checked}],
    }


def test_a_model_in_place_of_an_adapter_is_refused_by_the_adapters_name(in_s3: Kept, tmp_path: Path) -> None:
    credentials = str(in_s3.place(tmp_path).credentials)
    finding = verify(
        tmp_path,
        *("--uri", in_s3.uri, "--credentials", credentials),
        *("--adapter", f"pixel={in_s3.uri}/scheduler", "--adapter-credentials", f"pixel={credentials}"),
    )
    assert (finding["ok"], finding["reason"]) == (False, "AdapterInvalid")
    assert finding["message"].startswith("adapter pixel: an adapter's folder holds exactly one .safetensors")
    assert "digest" not in finding
