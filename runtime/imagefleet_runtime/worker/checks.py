"""Checks of pictures: whether one may be shown, and how well it shows what was asked for.

Both are hooks: callables that the image has installed as entry points, and that the settings name. They may run for
long and fail in any way, so they run in threads, and what they do not say in time they have not said.
"""

from __future__ import annotations

import asyncio
import io
import math
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import entry_points
from typing import Any, TypeVar

from PIL import Image

from imagefleet_runtime.worker import errors
from imagefleet_runtime.worker.logs import log
from imagefleet_runtime.worker.metrics import Metrics
from imagefleet_runtime.worker.settings import CheckSettings, SettingsError
from imagefleet_runtime.worker.threads import in_thread

SafetyCheck = Callable[[str, Image.Image], bool]
QualityScore = Callable[[str, Image.Image], float | None]
Answer = TypeVar("Answer")

SAFETY_GROUP = "imagefleet.safety_checks"
QUALITY_GROUP = "imagefleet.quality_scores"
# Pictures that are looked at side by side: hooks share the CPU with the drawing of others.
THREADS = 2
# How long a look at one picture may take. Python cannot end a thread, so one that hangs is left to itself.
CHECK_SECONDS = 30.0


@dataclass(frozen=True)
class Hooks:
    """None: there is none."""

    safety: SafetyCheck | None = None
    quality: QualityScore | None = None


def find_hooks(settings: CheckSettings) -> Hooks:
    """Import the hooks that the settings name. Raises SettingsError, which lists what is installed."""
    return Hooks(
        safety=_find("IMAGEFLEET_SAFETY_CHECK", settings.safety, SAFETY_GROUP),
        quality=_find("IMAGEFLEET_QUALITY_SCORE", settings.quality, QUALITY_GROUP),
    )


def _find(variable: str, name: str, group: str) -> Any:
    if not name:
        return None
    installed = {point.name: point for point in entry_points(group=group)}
    if name not in installed:
        there_are = ", ".join(sorted(installed)) or "none"
        raise SettingsError(
            f"{variable} is {name!r}, which is not installed as an entry point of {group}; installed: {there_are}"
        )
    try:
        hook = installed[name].load()
    except Exception as error:  # whatever the import of somebody's module trips over
        raise SettingsError(f"{variable}: {name!r} could not be imported: {error!r}") from error
    if not callable(hook):
        raise SettingsError(f"{variable}: {installed[name].value} is not callable")
    return hook


@dataclass
class Findings:
    """What was found in the pictures of one request."""

    checked: int = 0
    unsafe: int = 0
    scores: list[float] = field(default_factory=list)

    def headers(self) -> dict[str, str]:
        """Those of the reply; worked example: scores 0.9 and 1.0 give ``x-imagefleet-quality: 0.9500``."""
        headers = {}
        if self.checked:
            headers = {
                "x-imagefleet-checked": str(self.checked),
                "x-imagefleet-unsafe": str(self.unsafe),
            }
        if self.scores:
            headers["x-imagefleet-quality"] = f"{math.fsum(self.scores) / len(self.scores):.4f}"
        return headers


class Checks:
    """Of one worker."""

    def __init__(self, hooks: Hooks, metrics: Metrics) -> None:
        self._hooks = hooks
        self._metrics = metrics
        self._threads = asyncio.Semaphore(THREADS)

    @property
    def guarded(self) -> bool:
        """Whether pictures are checked before they are sent. Then previews are not sent at all."""
        return self._hooks.safety is not None

    async def look(
        self, model: str, prompt: str, images: tuple[bytes, ...], score: bool, findings: Findings
    ) -> None:
        """Add to ``findings`` what the hooks say of ``images`` (encoded). Raises ApiError for one that is unsafe."""
        await asyncio.gather(*(self._look_at(model, prompt, image, score, findings) for image in images))
        if findings.unsafe:
            raise errors.content_policy_violation()

    async def _look_at(self, model: str, prompt: str, image: bytes, score: bool, findings: Findings) -> None:
        if self._hooks.safety is not None:
            # Without an answer there is no leave to show it.
            passed = bool(await self._ask("safety", self._hooks.safety, model, prompt, image))
            findings.checked += 1
            findings.unsafe += not passed
            self._metrics.checked(model, passed)
        if score and self._hooks.quality is not None:
            quality = _opinion(await self._ask("quality", self._hooks.quality, model, prompt, image))
            if quality is not None:
                findings.scores.append(quality)
                self._metrics.scored(model, quality)

    async def _ask(
        self, check: str, hook: Callable[[str, Image.Image], Answer], model: str, prompt: str, image: bytes
    ) -> Answer | None:
        """What ``hook`` says; None where it raises or takes too long."""
        async with self._threads:
            started = time.monotonic()
            try:
                async with asyncio.timeout(CHECK_SECONDS):
                    return await in_thread(partial(_call, hook, prompt, image))
            except Exception as error:
                # Never its message, which may repeat the prompt.
                log("check_failed", check=check, model=model, error=type(error).__name__, at=_place(error))
                return None
            finally:
                self._metrics.looked(model, check, time.monotonic() - started)


def _call(hook: Callable[[str, Image.Image], Answer], prompt: str, image: bytes) -> Answer:
    with Image.open(io.BytesIO(image)) as opened:
        return hook(prompt, opened.convert("RGB"))


def _opinion(score: Any) -> float | None:
    """A score from 0 to 1; None for all else, which says nothing of a picture."""
    try:
        value = float(score)
    except (TypeError, ValueError):
        return None
    return value if 0.0 <= value <= 1.0 else None


def _place(error: Exception) -> str | None:
    """The file and line in which ``error`` was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else None
