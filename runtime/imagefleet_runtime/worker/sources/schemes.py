"""From a URI to the source that it names. Their libraries are imported when the first one is asked for."""

from __future__ import annotations

from imagefleet_runtime.worker.source import SourceError, folder_of
from imagefleet_runtime.worker.sources.credentials import Credentials
from imagefleet_runtime.worker.sources.place import Place
from imagefleet_runtime.worker.sources.remote import Remote

LOCAL = ("file", "pvc")


def place_of(uri: str, credentials: str | None, digest: str | None, *, adapter: bool = False) -> Place:
    """The place that ``uri`` names inside a pod. Raises SourceError (UnsafePath)."""
    if uri.partition("://")[0] in LOCAL:
        return Place(str(folder_of(uri)), None, None, digest, adapter)
    return Place(None, uri, credentials, digest, adapter)


def open_remote(uri: str, credentials: Credentials) -> Remote:
    """The remote source that ``uri`` names. Raises SourceError (UnsafePath, AccessDenied, FetchFailed)."""
    scheme = uri.partition("://")[0]
    if scheme == "hf":
        from imagefleet_runtime.worker.sources.hub import HubRepository

        return HubRepository(uri, credentials)
    if scheme == "oci":
        from imagefleet_runtime.worker.sources.registry import Artifact

        return Artifact(uri, credentials)
    if scheme in ("s3", "gs"):
        from imagefleet_runtime.worker.sources.buckets import Bucket

        return Bucket(uri, credentials)
    raise SourceError("UnsafePath", f"{uri} is none of file://, pvc://, hf://, s3://, gs:// and oci://")
