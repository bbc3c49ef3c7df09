import errno
import hashlib
import io
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from imagefleet_runtime.worker import source
from imagefleet_runtime.worker.source import DigestCache, SourceError, folder_of, inspect, scan, signature

# The command of docs/contract.md.
SHELL = "find -L . -type f -printf '%P\\n' | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum"


def make_model(folder: Path, class_name: object = "StableDiffusionPipeline") -> Path:
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": class_name}))
    (folder / "unet/model.safetensors").write_bytes(b"weights")
    return folder


def shell_digest(folder: Path) -> str:
    answer = subprocess.run(["bash", "-c", SHELL], cwd=folder, check=True, capture_output=True, text=True)
    return "sha256:" + answer.stdout.split()[0]


def test_the_digest_is_that_of_the_documented_shell_command(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    for name in ("B.txt", "a.txt", "unet-2/x", "unet.json", "unet/é", "with space", "unet/.hidden"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    (folder / "link.txt").symlink_to("a.txt")
    found = inspect(folder, DigestCache())
    assert found.digest == shell_digest(folder)
    assert (found.files, found.class_name) == (10, "StableDiffusionPipeline")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.text("aB.-_ é0'\"$", min_size=1, max_size=6).filter(
            lambda name: name.strip(".") and name[0] != "-"
        ),
        st.binary(max_size=20),
        min_size=1,
        max_size=6,
    )
)
def test_the_digest_agrees_with_the_shell_for_any_names(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    folder = tmp_path_factory.mktemp("names")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    assert source.folder_digest(scan(folder), DigestCache()) == shell_digest(folder)


def pickle_beside_weights(folder: Path) -> None:
    (folder / "unet/pytorch_model.BIN").write_bytes(b"")


def no_index(folder: Path) -> None:
    (folder / "model_index.json").unlink()


def broken_index(folder: Path) -> None:
    (folder / "model_index.json").write_text("{")


def index_without_end(folder: Path) -> None:
    (folder / "model_index.json").write_text("[" * 100_000)


def index_is_a_folder(folder: Path) -> None:
    no_index(folder)
    (folder / "model_index.json").mkdir()


def index_is_a_named_pipe(folder: Path) -> None:
    no_index(folder)
    os.mkfifo(folder / "model_index.json")


def index_is_a_list(folder: Path) -> None:
    (folder / "model_index.json").write_text("[]")


def index_names_own_code(folder: Path) -> None:
    (folder / "model_index.json").write_text('{"_class_name": ["my_pipeline", "MyPipeline"]}')


def no_weights(folder: Path) -> None:
    (folder / "unet/model.safetensors").unlink()


def link_out(folder: Path) -> None:
    (folder / "passwd").symlink_to("/etc/passwd")


def link_up(folder: Path) -> None:
    (folder.parent / "outside.txt").write_text("secret")
    (folder / "outside.txt").symlink_to("../outside.txt")


def link_to_folder(folder: Path) -> None:
    (folder / "again").symlink_to("unet")


def dangling_link(folder: Path) -> None:
    (folder / "gone").symlink_to("nowhere")


def line_break_in_name(folder: Path) -> None:
    (folder / "two\nlines").write_text("")


def name_like_an_option(folder: Path) -> None:
    (folder / "--check").write_text("")


@pytest.mark.parametrize(
    ("spoil", "reason", "says"),
    [
        (pickle_beside_weights, "PickleRefused", "unet/pytorch_model.BIN"),
        (no_index, "NotAPipeline", "no model_index.json"),
        (broken_index, "NotAPipeline", "is not JSON"),
        (index_without_end, "NotAPipeline", "is not JSON"),
        (index_is_a_folder, "NotAPipeline", "no model_index.json"),
        (index_is_a_named_pipe, "NotAPipeline", "no model_index.json"),
        (index_is_a_list, "NotAPipeline", "_class_name"),
        (index_names_own_code, "NotAPipeline", "_class_name"),
        (no_weights, "NoWeights", ".safetensors"),
        (link_out, "UnsafePath", "passwd leads out of the folder"),
        (link_up, "UnsafePath", "outside.txt leads out of the folder"),
        (link_to_folder, "UnsafePath", "does not lead to a file"),
        (dangling_link, "UnsafePath", "does not lead to a file"),
        (line_break_in_name, "UnsafePath", "rename"),
        (name_like_an_option, "UnsafePath", "rename"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_a_folder_is_refused_with_a_reason(tmp_path: Path, spoil: object, reason: str, says: str) -> None:
    folder = make_model(tmp_path / "model")
    assert callable(spoil)
    spoil(folder)
    with pytest.raises(SourceError) as refused:
        inspect(folder, DigestCache())
    assert refused.value.reason == reason
    assert says in refused.value.message


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Paths that nobody may read: to root, under which tests may run, permission bits mean nothing."""
    paths: set[str] = set()

    def guarded(call: Callable[..., Any]) -> Callable[..., Any]:
        def refuse_or_call(path: Any, *arguments: Any, **options: Any) -> Any:
            if os.path.realpath(os.fsdecode(path)) in paths:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            return call(path, *arguments, **options)

        return refuse_or_call

    monkeypatch.setattr("builtins.open", guarded(open))
    monkeypatch.setattr("io.open", guarded(io.open))
    for name in ("scandir", "stat"):
        monkeypatch.setattr(os, name, guarded(getattr(os, name)))
    monkeypatch.setattr(os, "access", lambda path, _mode: os.path.realpath(path) not in paths)
    return paths


@pytest.mark.parametrize("name", ["", "unet", "unet/model.safetensors", "model_index.json"])
def test_what_may_not_be_read_is_named_with_the_user_who_must_be_let_in(
    tmp_path: Path, locked: set[str], name: str
) -> None:
    folder = make_model(tmp_path / "model")
    path = os.path.realpath(folder / name)
    locked.add(path)
    with pytest.raises(SourceError) as refused:
        inspect(folder, DigestCache())
    assert refused.value.reason == "SourceUnreadable"
    assert f"{path}: Permission denied" in refused.value.message
    assert f"uid {os.getuid()}" in refused.value.message


def test_a_signature_changes_when_a_file_may_be_read(tmp_path: Path, locked: set[str]) -> None:
    folder = make_model(tmp_path / "model")
    before = signature(folder)
    locked.add(os.path.realpath(folder / "unet/model.safetensors"))
    assert signature(folder) != before


def test_a_disk_that_fails_has_a_signature_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_path: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    good = signature(make_model(tmp_path / "model"))
    monkeypatch.setattr(os, "scandir", fail)
    assert good != signature(tmp_path / "model") == "[Errno 5] Input/output error"


def test_a_folder_that_is_not_there_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as refused:
        inspect(tmp_path / "nowhere", DigestCache())
    assert refused.value.reason == "SourceNotFound"


def test_a_wrong_digest_is_reported_with_the_right_one(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    with pytest.raises(SourceError) as refused:
        inspect(folder, DigestCache(), digest="sha256:" + "0" * 64)
    assert refused.value.reason == "DigestMismatch"
    assert refused.value.digest == shell_digest(folder)


@pytest.mark.parametrize(
    ("class_name", "accepted"),
    [
        (None, True),
        ("AutoPipelineForText2Image", True),
        ("StableDiffusionPipeline", True),
        ("FluxPipeline", False),
    ],
)
def test_the_class_must_be_the_one_that_was_asked_for(
    tmp_path: Path, class_name: str | None, accepted: bool
) -> None:
    folder = make_model(tmp_path / "model")
    if accepted:
        assert inspect(folder, DigestCache(), class_name=class_name).class_name == "StableDiffusionPipeline"
    else:
        with pytest.raises(SourceError, match="says StableDiffusionPipeline, not FluxPipeline") as refused:
            inspect(folder, DigestCache(), class_name=class_name)
        assert refused.value.reason == "ClassMismatch"


def test_a_second_look_hashes_only_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_model(tmp_path / "model")
    cache = DigestCache()
    first = inspect(folder, cache)
    hashed: list[str] = []
    real = hashlib.file_digest

    def noting(stream: Any, name: str) -> Any:
        hashed.append(stream.name)
        return real(stream, name)

    monkeypatch.setattr(hashlib, "file_digest", noting)
    assert inspect(folder, cache) == first
    assert hashed == []
    weights = folder / "unet/model.safetensors"
    weights.write_bytes(b"longer weights")
    assert inspect(folder, cache).digest == shell_digest(folder) != first.digest
    assert hashed == [os.path.realpath(weights)]


def test_a_signature_changes_with_the_folder_and_not_without(tmp_path: Path) -> None:
    assert signature(tmp_path / "model") == signature(tmp_path / "model")
    missing = signature(tmp_path / "model")
    folder = make_model(tmp_path / "model")
    present = signature(folder)
    assert missing != present == signature(folder)
    (folder / "README.md").write_text("new")
    assert signature(folder) != present


@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        ("file:///models/shapes-1", "/models/shapes-1"),
        ("pvc://weights/sdxl", "/pvc/weights/sdxl"),
        ("pvc://weights", "/pvc/weights"),
    ],
)
def test_uris_name_folders(uri: str, folder: str) -> None:
    assert folder_of(uri) == Path(folder)


@pytest.mark.parametrize(
    "uri",
    [
        "file://models",
        "/models",
        "pvc:///x",
        "pvc://",
        "file:///a/../../etc",
        "pvc://c/../other",
        "https://x/y",
        "",
    ],
)
def test_other_uris_are_refused(uri: str) -> None:
    with pytest.raises(SourceError) as refused:
        folder_of(uri)
    assert refused.value.reason == "UnsafePath"
