"""``s3://BUCKET/PREFIX`` and ``gs://BUCKET/PREFIX``, by way of obstore."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

import httpx
import obstore
from obstore import exceptions
from obstore.store import GCSStore, S3Store

from imagefleet_runtime.worker.source import SourceError
from imagefleet_runtime.worker.sources.credentials import Credentials
from imagefleet_runtime.worker.sources.remote import MAX_LISTED, RemoteFile, TransientError, leads_upwards
from imagefleet_runtime.worker.sources.web import (
    BUSY,
    CHUNK_BYTES,
    CONNECT_SECONDS,
    READ_SECONDS,
    check_endpoint,
)

if TYPE_CHECKING:
    from obstore.store import ClientConfig, GCSConfig, RetryConfig, S3Config

URI = re.compile(r"(s3|gs)://([a-z0-9][a-z0-9._-]{1,220}[a-z0-9])(?:/(.*))?", re.ASCII)
# Where these are set, the pod has an identity of its own. A node's is not asked for: it is not the pod's.
AWS_IDENTITY = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_ACCESS_KEY_ID",
)
STATUS = re.compile(r"status code: (\d{3})")
CODE = re.compile(r"<Code>(\w{1,100})</Code>")
GOOGLE = {"Metadata-Flavor": "Google"}  # asked with it, and answered with it
METADATA_SECONDS = 2.0
MESSAGE_CHARACTERS = 300  # obstore's messages can run over pages
# The downloader has retries of its own, which can be stopped and go on where they were.
RETRIES: RetryConfig = {"max_retries": 1, "retry_timeout": timedelta(seconds=10)}


class Bucket:
    """Raises SourceError (UnsafePath, FetchFailed)."""

    def __init__(self, uri: str, credentials: Credentials) -> None:
        match = URI.fullmatch(uri)
        if match is None or leads_upwards(uri):
            raise SourceError("UnsafePath", f"{uri} is neither s3://BUCKET/PREFIX nor gs://BUCKET/PREFIX")
        scheme, bucket, prefix = match.groups()
        self._uri = uri
        self._credentials = credentials
        try:
            make = s3_store if scheme == "s3" else gcs_store
            self._store = make(bucket, (prefix or "").strip("/") or None, credentials)
        except (exceptions.BaseError, ValueError) as error:
            raise SourceError("AccessDenied", self._shown(error)) from None

    def files(self) -> list[RemoteFile]:
        found: list[RemoteFile] = []
        with self._telling():
            for batch in obstore.list(self._store, chunk_size=1000):
                found += [
                    RemoteFile(meta["path"], meta["size"], None, meta["path"], meta["e_tag"] or "")
                    for meta in batch
                ]
                if len(found) > MAX_LISTED:
                    raise SourceError(
                        "FetchFailed", f"there are more than {MAX_LISTED} objects below {self._uri}"
                    )
        if not found:
            raise SourceError("SourceNotFound", f"there is no object below {self._uri}")
        return found

    @contextlib.contextmanager
    def open(self, file: RemoteFile, start: int, end: int) -> Iterator[Iterator[bytes]]:
        with self._telling():
            if start == end:  # an empty range is none to S3
                yield iter(())
                return
            etag = file.version or None
            result = obstore.get(self._store, file.key, options={"range": (start, end), "if_match": etag})
            if result.meta["size"] != file.size:
                raise SourceError(
                    "FetchFailed", f"{file.name} is not of the {file.size} bytes that the listing says"
                )
            yield iter(result.stream(CHUNK_BYTES))

    def close(self) -> None:
        """obstore closes its connections with the store."""

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Turn obstore's errors into ours."""
        try:
            yield
        except FileNotFoundError as error:
            raise SourceError("SourceNotFound", self._shown(error)) from None
        except exceptions.PreconditionError:
            raise SourceError("FetchFailed", f"{self._uri} was changed while it was fetched") from None
        except exceptions.BaseError as error:
            raise self._translated(error) from None

    def _translated(self, error: exceptions.BaseError) -> SourceError | TransientError:
        """By the status of the server's answer, which obstore tells in words only. Without one: a broken connection."""
        match = STATUS.search(str(error))
        status = int(match[1]) if match else None
        shown = self._shown(error)
        if status is None or status in BUSY:
            return TransientError(shown)
        if status in (401, 403):
            return SourceError("AccessDenied", f"{shown}; check the Secret that the source's secretRef names")
        return SourceError("SourceNotFound" if status == 404 else "FetchFailed", shown)

    def _shown(self, error: Exception) -> str:
        """What ``error`` says, in short: the server's status and code where it answered. Without credentials."""
        text = str(error)
        status, code = STATUS.search(text), CODE.search(text)
        if status:
            said = f"the server answers {status[1]}" + (f" ({code[1]})" if code else "")
        else:
            said = (text.splitlines() or [type(error).__name__])[0][:MESSAGE_CHARACTERS]
        return f"{self._uri}: {self._credentials.redact(said)}"


def s3_store(bucket: str, prefix: str | None, credentials: Credentials) -> S3Store:
    """The bucket, with the Secret's key, else the pod's identity, else none. Raises SourceError (AccessDenied)."""
    config: S3Config = {"region": credentials.get("region") or os.environ.get("AWS_REGION") or "us-east-1"}
    endpoint = credentials.get("endpoint")
    if endpoint:
        config["endpoint"] = check_endpoint(endpoint)
    key, secret = credentials.get("accessKeyId"), credentials.get("secretAccessKey")
    if (key is None) != (secret is None):
        raise SourceError(
            "AccessDenied", "the Secret must hold both accessKeyId and secretAccessKey, or neither"
        )
    if key and secret:
        config |= {"access_key_id": key, "secret_access_key": secret}
    elif not any(os.environ.get(name) for name in AWS_IDENTITY):
        config["skip_signature"] = True
    return S3Store(
        bucket, prefix=prefix, config=config, client_options=_client(endpoint), retry_config=RETRIES
    )


def gcs_store(bucket: str, prefix: str | None, credentials: Credentials) -> GCSStore:
    """The bucket, with the Secret's key, else the pod's identity, else none."""
    config: GCSConfig = {}
    endpoint = credentials.get("endpoint")
    if endpoint:
        config["base_url"] = check_endpoint(endpoint)
    key = credentials.get("serviceAccountKey")
    if key:
        config["service_account_key"] = key
    elif not os.environ.get("GOOGLE_APPLICATION_CREDENTIALS") and not _has_google_identity():
        config["skip_signature"] = True
    return GCSStore(
        bucket, prefix=prefix, config=config, client_options=_client(endpoint), retry_config=RETRIES
    )


def _has_google_identity() -> bool:
    """Whether Google's metadata server gives this pod an identity. By its address: a name that nobody knows can take
    a resolver longer than METADATA_SECONDS."""
    host = os.environ.get("GCE_METADATA_HOST") or "169.254.169.254"
    url = f"http://{host}/computeMetadata/v1/instance/service-accounts/default/email"
    try:
        answer = httpx.get(url, headers=GOOGLE, timeout=METADATA_SECONDS, trust_env=False)
    except httpx.HTTPError:
        return False
    return answer.status_code == 200 and answer.headers.get("Metadata-Flavor") == GOOGLE["Metadata-Flavor"]


def _client(endpoint: str | None) -> ClientConfig:
    return {
        "allow_http": bool(endpoint) and str(endpoint).startswith("http://"),
        "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
        "read_timeout": timedelta(seconds=READ_SECONDS),
        # Of a whole request, its body included: a piece at 37 kB/s.
        "timeout": timedelta(minutes=15),
        "user_agent": "imagefleet-worker",
    }
