"""Where models and adapters come from: folders of the pod, and remote sources by way of the node's cache."""

from imagefleet_runtime.worker.source import SourceError
from imagefleet_runtime.worker.sources.cache import NodeCache
from imagefleet_runtime.worker.sources.place import FetchStoppedError, Place

__all__ = ["FetchStoppedError", "NodeCache", "Place", "SourceError"]
