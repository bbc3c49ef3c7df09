"""The engine: one process that holds one model and draws. Imports torch: only forks of the importer import this."""

from imagefleet_runtime.worker.engine.process import main

__all__ = ["main"]
