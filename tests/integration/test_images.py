"""The images: their Dockerfiles by rule, and each step's command that runs without a container engine."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.integration.dockerfile import ROOT, Sandbox, build_context, environment, instructions, stages

COMPONENTS = ("operator", "gateway", "worker")
PORTS = {"operator": "8081", "gateway": "8080", "worker": "8000"}
DOCKERFILES = {component: ROOT / "images" / component / "Dockerfile" for component in COMPONENTS}
# What must not be installed beside a program: torch in the control plane, a slow framework in the gateway.
UNWANTED = {
    "operator": ("torch", "diffusers", "transformers", "fastapi", "uvicorn"),
    "gateway": ("torch", "diffusers", "transformers", "fastapi", "starlette", "kopf"),
}
UV = next(path for path in (ROOT / ".tools/bin/uv", Path(shutil.which("uv") or "")) if path.is_file())
# Bytecode is not worth its time here, and copies cost gigabytes.
FASTER = {"UV_COMPILE_BYTECODE": "0", "UV_LINK_MODE": "hardlink", "UV_PYTHON": sys.executable}


def run_steps(component: str, stage: str) -> list[str]:
    return [text for keyword, text in stages(DOCKERFILES[component])[stage] if keyword == "RUN"]


def test_the_dockerfiles_pass_the_linter() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    found = subprocess.run([hadolint, *DOCKERFILES.values()], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_all_images_stand_on_one_base_pinned_by_version_and_digest() -> None:
    bases = {text for path in DOCKERFILES.values() for keyword, text in instructions(path) if "BASE=" in text}
    (base,) = bases
    assert re.fullmatch(r"BASE=python:\d+\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}", base)


@pytest.mark.parametrize("component", COMPONENTS)
def test_no_stage_comes_from_anywhere_else(component: str) -> None:
    origins = [text.split()[0] for keyword, text in instructions(DOCKERFILES[component]) if keyword == "FROM"]
    assert set(origins) <= {"${BASE}", "build"}


@pytest.mark.parametrize("component", COMPONENTS)
def test_images_are_built_with_the_uv_of_the_makefile(component: str) -> None:
    (version,) = re.findall(r"^UV_VERSION := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert run_steps(component, "build")[0] == f"pip install --no-cache-dir uv=={version}"


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_image_runs_its_program_as_nobody_in_particular(component: str) -> None:
    final = stages(DOCKERFILES[component])["final"]
    assert [text for keyword, text in final if keyword == "USER"] == ["65532:65532"]
    assert [text for keyword, text in final if keyword == "EXPOSE"] == [PORTS[component]]
    assert final[-1] == ("ENTRYPOINT", f'["dumb-init", "--single-child", "--", "imagefleet-{component}"]')
    assert environment(final)["HOME"] == "/tmp"


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_final_stage_holds_what_was_built_and_no_sources(component: str) -> None:
    copied = [text for keyword, text in stages(DOCKERFILES[component])["final"] if keyword == "COPY"]
    assert all(text.startswith(("--from=", "models/")) for text in copied)
    assert "--from=build /opt/imagefleet /opt/imagefleet" in copied


def test_a_worker_asks_no_model_hub_and_sees_its_gpu() -> None:
    variables = environment(stages(DOCKERFILES["worker"])["final"])
    assert variables["HF_HUB_OFFLINE"] == variables["TRANSFORMERS_OFFLINE"] == "1"
    assert set(variables["NVIDIA_DRIVER_CAPABILITIES"].split(",")) == {"compute", "utility"}


def test_the_build_context_holds_only_what_an_image_is_made_of(tmp_path: Path) -> None:
    build_context(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "LICENSE", "README.md", "models", "operator", "pyproject.toml", "runtime", "shapes", "uv.lock",
    }  # fmt: skip
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"


@pytest.fixture(scope="module", params=["operator", "gateway"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """An image's build stage, carried out: its name and the environment that it made."""
    component: str = request.param
    root = tmp_path_factory.mktemp(component)
    build_context(root / "context")
    sandbox = Sandbox(root, root / "context", {"uv sync": f"{UV} sync"}, FASTER)
    (root / "src").mkdir()
    stage = stages(DOCKERFILES[component])["build"]
    for keyword, text in stage:
        if keyword == "COPY":
            sandbox.copy(text)
        elif keyword == "RUN" and not text.startswith("pip install"):
            sandbox.run(text, stage)
    return component, root / "opt" / "imagefleet"


def test_an_image_starts_its_program_from_its_own_environment(built: tuple[str, Path]) -> None:
    component, environment = built
    program = environment / "bin" / f"imagefleet-{component}"
    done = subprocess.run(
        [program, "--help"], capture_output=True, text=True, env={"HOME": "/tmp"}, check=False
    )
    assert "Traceback" not in done.stderr
    assert f"imagefleet-{component}" in done.stdout + done.stderr


def test_an_image_holds_the_code_itself_not_a_link_to_the_sources(built: tuple[str, Path]) -> None:
    _, environment = built
    installed = {path.name for path in (environment / "lib").glob("python3.*/site-packages/imagefleet_*")}
    assert installed >= {"imagefleet_operator", "imagefleet_runtime"}


def test_an_image_holds_no_libraries_of_other_parts(built: tuple[str, Path]) -> None:
    component, environment = built
    found = "import importlib.util, sys; print([n for n in sys.argv[1:] if importlib.util.find_spec(n)])"
    done = subprocess.run(
        [environment / "bin" / "python", "-c", found, *UNWANTED[component]],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_the_worker_image_resolves_from_the_lock_file(tmp_path: Path) -> None:
    build_context(tmp_path / "context")
    sandbox = Sandbox(tmp_path, tmp_path / "context", {"uv sync": f"{UV} sync --dry-run"}, FASTER)
    (tmp_path / "src").mkdir()
    stage = stages(DOCKERFILES["worker"])["build"]
    planned = ""
    for keyword, text in stage:
        if keyword == "COPY":
            sandbox.copy(text)
        elif keyword == "RUN" and not text.startswith("pip install"):
            planned = sandbox.run(text, stage)
    assert {"torch", "diffusers", "starlette", "imagefleet"} <= set(
        re.findall(r"^ \+ ([\w-]+)", planned, re.M)
    )
    assert not {"kopf", "pytest"} & set(re.findall(r"^ \+ ([\w-]+)", planned, re.M))


def test_the_worker_image_brings_the_checks_of_the_demo_models(tmp_path: Path) -> None:
    build_context(tmp_path / "context")
    sandbox = Sandbox(tmp_path, tmp_path / "context")
    (tmp_path / "src").mkdir()
    for keyword, text in stages(DOCKERFILES["worker"])["build"]:
        if keyword == "COPY":
            sandbox.copy(text)
    build = [str(UV), "build", "--wheel", "--quiet", "--python", sys.executable]
    subprocess.run([*build, "--out-dir", str(tmp_path / "dist"), str(tmp_path / "src")], check=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        (points,) = [name for name in files.namelist() if name.endswith("entry_points.txt")]
        assert "shapes/checks.py" in files.namelist()
        assert files.read(points).decode().count("shapes = shapes.checks:") == 2


def test_the_worker_image_brings_the_models_of_the_quickstart(tmp_path: Path) -> None:
    build_context(tmp_path / "context")
    sandbox = Sandbox(tmp_path, tmp_path / "context")
    for keyword, text in stages(DOCKERFILES["worker"])["final"]:
        if keyword == "COPY" and text.startswith("models/"):
            sandbox.copy(text)
    for name in ("shapes-1", "shapes-2"):
        files = [path for path in (tmp_path / "models" / name).rglob("*") if path.is_file()]
        assert {"model_index.json", "README.md"} <= {path.name for path in files}
        assert ".safetensors" in {path.suffix for path in files}
        assert sum(path.stat().st_size for path in files) < 10_000_000


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_user_can_be_made(component: str, tmp_path: Path) -> None:
    (step,) = [step for step in run_steps(component, "final") if "useradd" in step]
    (tmp_path / "src").mkdir()
    (tmp_path / "etc").mkdir()
    for name in ("passwd", "group", "shadow", "gshadow"):
        (tmp_path / "etc" / name).touch()
    prefix = f" --prefix {shlex.quote(str(tmp_path))} --"
    Sandbox(tmp_path, tmp_path).run(
        step.replace(" --", prefix, 1).replace("useradd --", "useradd" + prefix), []
    )
    assert (tmp_path / "etc/passwd").read_text().startswith("imagefleet:x:65532:65532::/tmp:")
    cache = tmp_path / "cache"
    assert cache.exists() is (component == "worker")
    assert not cache.exists() or cache.stat().st_uid == 65532


def test_the_worker_image_can_compile_what_torch_generates() -> None:
    """The one step that needs the base image's own packages: its command is compared, its version with the base's."""
    (step,) = [step for step in run_steps("worker", "final") if "apt-get" in step]
    assert step.split(" && ") == [
        "apt-get update",
        "apt-get install --yes --no-install-recommends g++=4:14.*",
        "rm -rf /var/lib/apt/lists/*",
    ]
    (base,) = [text for keyword, text in instructions(DOCKERFILES["worker"]) if text.startswith("BASE=")]
    assert "-slim-trixie@" in base, "another Debian has another g++: change its version with the base"


def test_no_step_is_left_untried() -> None:
    """The steps that the tests above run or compare: whoever adds one adds its test."""
    tried = {
        ("operator", "build"): 3, ("gateway", "build"): 3, ("worker", "build"): 3,
        ("operator", "final"): 1, ("gateway", "final"): 1, ("worker", "final"): 2,
    }  # fmt: skip
    assert {
        (component, stage): len(run_steps(component, stage))
        for component in COMPONENTS
        for stage in stages(DOCKERFILES[component])
    } == tried
