"""Just enough of a Dockerfile's language to read ours, and to run their steps without a container engine."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Instruction(NamedTuple):
    keyword: str
    text: str


def instructions(path: Path) -> list[Instruction]:
    """The instructions in order; comments are dropped and continued lines joined."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [Instruction(*line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def stages(path: Path) -> dict[str, list[Instruction]]:
    """The instructions of each stage by its name; the last, unnamed stage is `final`."""
    found: dict[str, list[Instruction]] = {}
    for instruction in instructions(path):
        if instruction.keyword == "FROM":
            _, _, name = instruction.text.partition(" AS ")
            found[name or "final"] = []
        elif found:
            found[list(found)[-1]].append(instruction)
    return found


def environment(stage: list[Instruction]) -> dict[str, str]:
    """The variables that a stage sets."""
    words = [word for keyword, text in stage if keyword == "ENV" for word in shlex.split(text)]
    return dict(word.split("=", 1) for word in words)


def build_context(target: Path) -> None:
    """Copy what .dockerignore lets through: it refuses all but the plain paths that it names after `!`."""
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            _copy(ROOT / line[1:], target / line[1:])


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=ignored)
    else:
        shutil.copy2(source, target)


@dataclass(frozen=True)
class Sandbox:
    """A folder that stands for an image's root, in which the instructions of a stage are carried out."""

    root: Path
    context: Path
    # Words of commands that differ here, such as the interpreter of an environment that was not made.
    replace: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)

    def copy(self, text: str) -> None:
        """Carry out a COPY. Raises FileNotFoundError where the build context lacks a source."""
        *sources, target = text.split()
        for source in sources:
            name = source if target.endswith("./") else target
            # An absolute target is below the image's root; others are below the working folder.
            place = self.root / name.lstrip("/") if name.startswith("/") else self.root / "src" / name
            _copy(self.context / source, place)

    def run(self, text: str, stage: list[Instruction]) -> str:
        """Carry out a RUN with the stage's variables; the output. Fails the test where it fails."""
        command = re.sub(r"--mount=\S+\s+", "", text)
        for word, ours in self.replace.items():
            command = command.replace(word, ours)
        for folder in ("/opt/imagefleet", "/models", "/cache"):
            command = re.sub(rf"(?<![\w/.-]){folder}\b", f"{self.root}{folder}", command)
        variables = {
            name: str(self.root) + value if value.startswith("/") else value
            for name, value in environment(stage).items()
        }
        done = subprocess.run(
            ["/bin/sh", "-euc", command],
            cwd=self.root / "src",
            env={**os.environ, **variables, **self.variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        return done.stdout
