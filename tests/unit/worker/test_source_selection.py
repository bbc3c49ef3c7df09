import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_runtime.worker.source import SourceError
from imagefleet_runtime.worker.sources.remote import RemoteFile
from imagefleet_runtime.worker.sources.selection import PART, SUFFIXES, components, of_adapter, of_pipeline

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "safety_checker": [None, None],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "unet": ["diffusers", "UNet2DConditionModel"],
}
WEIGHTS = "unet/diffusion_pytorch_model"


def file(name: str, size: int = 1, sha256: str | None = None) -> RemoteFile:
    return RemoteFile(name, size, sha256, name, "")


def chosen(*names: str, index: dict[str, Any] = INDEX) -> list[str]:
    return [found.name for found in of_pipeline([file(name) for name in names], index)]


@pytest.mark.parametrize(
    "name",
    [
        "model_index.json",
        "unet/config.json",
        f"{WEIGHTS}-00001-of-00002.safetensors",
        f"{WEIGHTS}.safetensors.index.json",
        "text_encoder/merges.txt",
        "text_encoder/spiece.model",
        "text_encoder/chat_template.jinja",
        "text_encoder/templates/additional.jinja",
        "text_encoder/README.md",
    ],
)
def test_what_a_pipeline_can_need_is_chosen(name: str) -> None:
    assert name in chosen(f"{WEIGHTS}.safetensors", name)


@pytest.mark.parametrize(
    "name",
    [
        "v1-5-pruned.safetensors",
        "README.md",
        "config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "safety_checker/model.safetensors",
        f"{WEIGHTS}.bin",
        f"{WEIGHTS}.pt",
        f"{WEIGHTS}.msgpack",
        f"{WEIGHTS}.py",
        f"{WEIGHTS}.safetensors.bin",
        f"{WEIGHTS}.fp16.safetensors",
        f"{WEIGHTS}.non_ema.safetensors",
        f"{WEIGHTS}.fp16-00001-of-00002.safetensors",
        f"{WEIGHTS}-00001-of-00002.fp16.safetensors",
        f"{WEIGHTS}.fp16.safetensors.index.json",
        f"{WEIGHTS}.safetensors.index.fp16.json",
        "../unet/config.json",
        "/unet/config.json",
        "unet",
        "",
    ],
)
def test_everything_else_is_left_out(name: str) -> None:
    assert chosen(f"{WEIGHTS}.safetensors", name) == [f"{WEIGHTS}.safetensors"]


def test_files_are_in_the_order_of_the_digest() -> None:
    names = ["unet/a.json", "unet/B.json", f"{WEIGHTS}.safetensors", "model_index.json"]
    assert chosen(*names) == sorted(names)


@pytest.mark.parametrize(
    ("names", "reason", "hint"),
    [
        ([], "NoWeights", "no folder"),
        (["unet/config.json"], "NoWeights", "no folder"),
        (["v1.safetensors"], "NoWeights", "no folder"),
        ([f"{WEIGHTS}.fp16.safetensors"], "NoWeights", "save the pipeline without variant="),
        ([f"{WEIGHTS}.safetensors", "text_encoder/model.fp16.safetensors"], "NoWeights", "text_encoder has"),
        ([f"{WEIGHTS}.safetensors", "text_encoder/pytorch_model.bin"], "PickleRefused", "convert"),
        ([f"{WEIGHTS}.safetensors", "unet/../../etc/passwd.json"], "UnsafePath", "etc/passwd"),
        ([f"{WEIGHTS}.safetensors", "unet/./a.json"], "UnsafePath", "a.json"),
        ([f"{WEIGHTS}.safetensors", "unet//a.json"], "UnsafePath", "a.json"),
        ([f"{WEIGHTS}.safetensors", "unet/-a.json"], "UnsafePath", "-a.json"),
        ([f"{WEIGHTS}.safetensors", "unet/.a.json"], "UnsafePath", ".a.json"),
        ([f"{WEIGHTS}.safetensors", "unet/a\n.json"], "UnsafePath", "not a name"),
        ([f"{WEIGHTS}.safetensors", "unet/a\0.json"], "UnsafePath", "not a name"),
        ([f"{WEIGHTS}.safetensors", "unet/é.json"], "UnsafePath", "not a name"),
        ([f"{WEIGHTS}.safetensors", "unet/" + 201 * "a" + ".json"], "UnsafePath", "not a name"),
        ([f"{WEIGHTS}.safetensors", "unet/a/b/c/d.json"], "UnsafePath", "not a name"),
        ([f"{WEIGHTS}.safetensors", f"{WEIGHTS}.safetensors"], "UnsafePath", "twice"),
    ],
)
def test_a_listing_that_is_no_models_is_refused(names: list[str], reason: str, hint: str) -> None:
    with pytest.raises(SourceError, match=hint) as refused:
        chosen("model_index.json", *names)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    "bad",
    [file("unet/a.json", -1), file("unet/a.json", 1, "abc"), file("unet/a.json", 1, "g" * 64)],
)
def test_an_impossible_size_or_digest_is_refused(bad: RemoteFile) -> None:
    with pytest.raises(SourceError, match="impossible"):
        of_pipeline([file(f"{WEIGHTS}.safetensors"), bad], INDEX)


@given(
    st.lists(st.text(min_size=1, max_size=30).map(lambda rest: f"unet/{rest}.json"), max_size=5, unique=True)
)
def test_whatever_is_chosen_lies_below_its_component(names: list[str]) -> None:
    found: list[str] = []
    with contextlib.suppress(SourceError):
        found = chosen(f"{WEIGHTS}.safetensors", *names)
    for name in found:
        folder, *rest = name.split("/")
        assert folder == "unet"
        assert rest
        assert all(PART.fullmatch(part) for part in rest)
        assert f".{name.rpartition('.')[2].lower()}" in SUFFIXES


@pytest.mark.parametrize(
    ("entry", "want"),
    [
        ({"unet": ["diffusers", "UNet2DConditionModel"]}, ["unet"]),
        ({"safety_checker": [None, None]}, []),
        ({"requires_safety_checker": True, "_name_or_path": "a/b", "sizes": [1, 2, 3], "two": [1, 2]}, []),
    ],
)
def test_components_are_the_entries_with_a_library_and_a_class(
    entry: dict[str, Any], want: list[str]
) -> None:
    assert components(json.loads(json.dumps(entry))) == want


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/etc", "-rf", "a b"])
def test_a_component_that_is_no_folders_name_is_refused(name: str) -> None:
    with pytest.raises(SourceError) as refused:
        components({name: ["diffusers", "UNet2DConditionModel"]})
    assert refused.value.reason == "UnsafePath"


def test_of_an_adapter_the_weights_at_the_top_and_their_configuration_are_chosen() -> None:
    names = ["lora.safetensors", "adapter_config.json", "README.md", "sample.png", "old/lora.safetensors"]
    found = of_adapter([file(name) for name in names])
    assert [one.name for one in found] == ["adapter_config.json", "lora.safetensors"]


@pytest.mark.parametrize("names", [[], ["a.bin"], ["a.safetensors", "b.safetensors"], ["x/a.safetensors"]])
def test_an_adapter_without_exactly_one_file_of_weights_is_refused(names: list[str]) -> None:
    with pytest.raises(SourceError, match="exactly one") as refused:
        of_adapter([file(name) for name in names])
    assert refused.value.reason == "AdapterInvalid"
