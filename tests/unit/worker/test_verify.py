import json
import subprocess
import sys
from pathlib import Path

import pytest
from imagefleet_runtime.worker import verify
from imagefleet_runtime.worker.settings import CacheSettings

from tests.unit.worker.test_source import make_model, shell_digest


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "imagefleet_runtime.worker.main", "verify", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_good_source_is_reported(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    report = tmp_path / "report"
    done = run("--uri", f"file://{folder}", "--report", str(report), "--digest", shell_digest(folder))
    assert done.returncode == 0, done.stderr
    finding = json.loads(report.read_bytes())
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert finding == {
        "ok": True,
        "digest": shell_digest(folder),
        "bytes": size,
        "files": 2,
        "className": "StableDiffusionPipeline",
    }


def test_a_bad_source_is_a_finding_not_a_failure(tmp_path: Path) -> None:
    report = tmp_path / "report"
    done = run("--uri", f"file://{tmp_path}/nowhere", "--report", str(report))
    assert done.returncode == 0, done.stderr
    assert json.loads(report.read_bytes())["reason"] == "SourceNotFound"
    assert run("--uri", f"file://{tmp_path}/nowhere", "--report", str(report), "--required").returncode == 3


def test_a_report_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    done = run("--uri", f"file://{tmp_path}", "--report", str(tmp_path / "no" / "folder"))
    assert done.returncode == 1
    assert "no/folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_digest_is_reported_with_the_one_found(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    verifier = verify.Verifier(CacheSettings(tmp_path / "cache", 0, 10**9))
    finding = verifier.report(f"file://{folder}", "sha256:" + "0" * 64)
    assert (finding["ok"], finding["reason"], finding["digest"]) == (
        False,
        "DigestMismatch",
        shell_digest(folder),
    )


@pytest.mark.parametrize("character", ["x", "é", "\U0001f600", '"'])
def test_a_report_fits_in_a_termination_message(character: str) -> None:
    text = verify.encode({"ok": False, "reason": "PickleRefused", "message": character * 9000})
    assert len(text) <= 4000
    assert json.loads(text)["reason"] == "PickleRefused"


def test_verifying_imports_no_torch() -> None:
    code = "import sys; import imagefleet_runtime.worker.verify; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_adapters_are_read_from_the_command_line() -> None:
    adapters = ["pixel=oci://r/a:v1#sha256:abc", "ink=s3://bucket/a=b"]
    assert verify.adapter_orders(adapters, ["ink=/secrets/s3"]) == [
        verify.AdapterOrder("pixel", "oci://r/a:v1", "sha256:abc", None),
        verify.AdapterOrder("ink", "s3://bucket/a=b", None, "/secrets/s3"),
    ]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--adapter", "pixel"], "--adapter pixel: write NAME="),
        (["--adapter", "=file:///a"], "write NAME="),
        (["--adapter-credentials", "ink=/secrets/s3"], "no --adapter of that name"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_line(arguments: list[str], hint: str, tmp_path: Path) -> None:
    done = run("--uri", f"file://{tmp_path}", "--report", str(tmp_path / "report"), *arguments)
    assert done.returncode == 2
    assert hint in done.stderr
    assert done.stderr.count("\n") == 1
