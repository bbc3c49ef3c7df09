"""Folders of tiny pipelines, written once, and engines and bare diffusers pipelines that have loaded them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from imagefleet_runtime.worker.engine.pipeline import Pipeline

    from tests.integration.engine.bare import Bare


@pytest.fixture(scope="session", autouse=True)
def quiet_torch() -> Iterator[None]:
    """As in an engine's process: one thread, no gradients, no bars."""
    import diffusers
    import torch
    import transformers

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    yield
    torch.set_num_threads(threads)
    torch.set_grad_enabled(True)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a pipeline of tiny.FAMILIES or tiny.OTHERS."""
    from tests.integration.engine import tiny

    root, written = tmp_path_factory.mktemp("tiny"), set[str]()

    def find(name: str) -> Path:
        if name not in written:
            tiny.write(name, root / name)
            written.add(name)
        return root / name

    return find


@pytest.fixture(scope="session")
def engine(folder: Callable[[str], Path]) -> Callable[[str], Pipeline]:
    """The engine's pipeline over ``folder(name)``. It is shared by all tests: leave nothing running in it."""
    from tests.integration.engine import drawing

    loaded: dict[str, Pipeline] = {}

    def find(name: str) -> Pipeline:
        if name not in loaded:
            loaded[name] = drawing.load(folder(name))
        return loaded[name]

    return find


@pytest.fixture(scope="session")
def bare(folder: Callable[[str], Path]) -> Callable[[str], Bare]:
    """Unmodified diffusers over ``folder(name)``, in a copy of its own."""
    from tests.integration.engine.bare import Bare

    loaded: dict[str, Bare] = {}

    def find(name: str) -> Bare:
        if name not in loaded:
            loaded[name] = Bare(folder(name))
        return loaded[name]

    return find
