from pathlib import Path

import numpy as np
import pytest
from imagefleet_runtime.worker.source import DigestCache, SourceError, inspect_adapter
from safetensors.numpy import save_file

from tests.unit.worker.test_source import shell_digest

FORMS = {
    "PEFT": ["base_model.model.q.lora_A.weight", "base_model.model.q.lora_B.weight"],
    "diffusers": ["transformer.q.lora_A.weight", "transformer.q.lora_B.weight"],
    "older diffusers": ["unet.q.lora.down.weight", "unet.q.lora.up.weight"],
    "kohya": ["lora_unet_q.lora_down.weight", "lora_unet_q.lora_up.weight", "lora_unet_q.alpha"],
}


def write(folder: Path, names: list[str], file: str = "lora.safetensors") -> Path:
    folder.mkdir(exist_ok=True)
    save_file({name: np.zeros(2, np.float32) for name in names}, folder / file)
    return folder


@pytest.mark.parametrize("form", FORMS)
def test_a_lora_is_known_by_the_names_of_its_tensors(form: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "adapter", FORMS[form])
    (folder / "README.md").write_text("hello")
    found = inspect_adapter(folder, DigestCache(), digest=shell_digest(folder))
    assert found.digest == shell_digest(folder)
    assert found.bytes == sum(file.stat().st_size for file in folder.iterdir())


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (["conv_in.weight", "conv_in.bias"], "conv_in"),
        ([*FORMS["PEFT"], "conv_in.weight"], "conv_in"),
        (["unet.q.lora_B.weight"], "no down projection"),
        ([], "no down projection"),
    ],
)
def test_other_weights_are_no_adapter(names: list[str], hint: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=hint) as refused:
        inspect_adapter(write(tmp_path / "adapter", names), DigestCache())
    assert refused.value.reason == "AdapterInvalid"


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0{}{}{}", b"PK\x03\x04"])
def test_a_file_that_is_no_safetensors_file_is_no_adapter(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "lora.safetensors").write_bytes(content)
    with pytest.raises(SourceError, match=r"lora\.safetensors") as refused:
        inspect_adapter(tmp_path, DigestCache())
    assert refused.value.reason == "AdapterInvalid"


@pytest.mark.parametrize("files", [[], ["a.safetensors", "b.safetensors"], ["below/a.safetensors"]])
def test_exactly_one_file_of_weights_lies_at_the_top(files: list[str], tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for file in files:
        write(tmp_path, FORMS["PEFT"], file)
    with pytest.raises(SourceError, match="exactly one") as refused:
        inspect_adapter(tmp_path, DigestCache())
    assert refused.value.reason == "AdapterInvalid"


def test_a_pickle_beside_it_is_refused(tmp_path: Path) -> None:
    (write(tmp_path, FORMS["PEFT"]) / "optimizer.pt").write_bytes(b"")
    with pytest.raises(SourceError) as refused:
        inspect_adapter(tmp_path, DigestCache())
    assert refused.value.reason == "PickleRefused"


def test_another_digest_is_refused_with_the_one_found(tmp_path: Path) -> None:
    write(tmp_path, FORMS["PEFT"])
    with pytest.raises(SourceError) as refused:
        inspect_adapter(tmp_path, DigestCache(), digest="sha256:" + "0" * 64)
    assert (refused.value.reason, refused.value.digest) == ("DigestMismatch", shell_digest(tmp_path))
