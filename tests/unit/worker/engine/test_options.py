"""Speed options, checked against a device."""

from __future__ import annotations

import pytest
import torch
from imagefleet_runtime.worker.engine import options
from imagefleet_runtime.worker.messages import Options


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")


@pytest.mark.parametrize(
    ("dtype", "device", "expected"),
    [
        ("auto", "cpu", torch.float32),
        ("auto", "cuda", torch.bfloat16),
        ("float16", "cpu", torch.float16),
        ("float32", "cuda", torch.float32),
    ],
)
def test_the_dtype_follows_the_device_where_it_is_left_open(
    dtype: str, device: str, expected: torch.dtype
) -> None:
    assert options.choose_dtype(dtype, device) == expected


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize("quantization", sorted(options.QUANTIZATIONS))
def test_a_new_gpu_takes_every_quantization(quantization: str) -> None:
    options.check_device(Options(quantization=quantization), "cuda")


@pytest.mark.parametrize("quantization", ["float8-weight-only", "float8-dynamic"])
def test_an_old_gpu_takes_no_float8(monkeypatch: pytest.MonkeyPatch, quantization: str) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA A100")
    with pytest.raises(options.UnsupportedOptionError, match=r"8\.9 or newer, and this is NVIDIA A100"):
        options.check_device(Options(quantization=quantization), "cuda")


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize(("attention", "package"), sorted(options.ATTENTION_PACKAGES.items()))
def test_an_attention_backend_whose_package_is_absent_is_refused(
    monkeypatch: pytest.MonkeyPatch, attention: str, package: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(
        options.UnsupportedOptionError, match=f"needs the package {package}, which this image does not"
    ):
        options.check_device(Options(attention=attention), "cuda")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: object())
    options.check_device(Options(attention=attention), "cuda")


def test_compiling_on_a_cpu_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(options.UnsupportedOptionError, match=r"needs a C\+\+ compiler"):
        options.check_device(Options(compile="regional"), "cpu")
    options.check_device(Options(compile="regional"), "cuda")


@pytest.mark.parametrize("quantization", ["none", "int8-weight-only", "int8-dynamic"])
def test_a_cpu_takes_what_it_can_do(quantization: str) -> None:
    options.check_device(Options(quantization=quantization, attention="native"), "cpu")


def test_the_denoiser_is_the_transformer_or_else_the_unet() -> None:
    class Pipe:
        transformer: torch.nn.Module | None = None
        unet = torch.nn.Linear(1, 1)

    assert options.denoiser(Pipe()) is Pipe.unet
    Pipe.transformer = torch.nn.Linear(1, 1)
    assert options.denoiser(Pipe()) is Pipe.transformer
