"""kopf's part: it watches, and every event becomes a record in the store and keys in the queue. No other
logic."""

from collections.abc import Callable, Iterable
from typing import Any

import kopf
from kubernetes.aio.client.configuration import Configuration

from imagefleet_operator.client import bearer
from imagefleet_operator.kinds import WATCHED, Kind
from imagefleet_operator.store.store import Key, Store


def make_registry(
    store: Store,
    wake: Callable[[Iterable[Key]], None],
    relisted: Callable[[], None],
    configuration: Configuration,
) -> kopf.OperatorRegistry:
    """The handlers: one ``on.event`` for each kind, and the login with the credentials that our own client uses.
    ``relisted`` is called for each object of a list, kopf's first ones included."""
    registry = kopf.OperatorRegistry()
    for kind in WATCHED:
        handler = _handler(kind, store, wake, relisted)
        kopf.on.event(kind.group, kind.version, kind.plural, id=kind.plural, registry=registry)(handler)

    @kopf.on.login(registry=registry, id="login", errors=kopf.ErrorsMode.PERMANENT)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        token = await bearer(configuration)
        scheme, _space, credentials = (token or "").partition(" ")
        return kopf.ConnectionInfo(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            insecure=not configuration.verify_ssl,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
            scheme=scheme if token else None,
            token=credentials if token else None,
            proxy_url=configuration.proxy,
        )

    return registry


def _handler(
    kind: Kind, store: Store, wake: Callable[[Iterable[Key]], None], relisted: Callable[[], None]
) -> Callable[..., Any]:
    async def record(event: kopf.RawEvent, **_: Any) -> None:
        obj: Any = event["object"]
        if event["type"] is None:
            relisted()
        wake(store.remove(kind, obj) if event["type"] == "DELETED" else store.put(kind, obj))

    return record


class NoDiffBase(kopf.DiffBaseStorage):
    """Keeps kopf from copying every object to compare it with its last one: there are no diff-driven
    handlers."""

    def build(self, **_: Any) -> Any:
        """Nothing is compared."""
        return {}

    def fetch(self, **_: Any) -> Any:
        """Nothing was stored."""
        return None

    def store(self, **_: Any) -> None:
        """Nothing is stored."""


def make_settings() -> kopf.OperatorSettings:
    """kopf's settings, each set on purpose."""
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True  # the Lease elects
    settings.scanning.disabled = True  # needs no rights on CRDs and namespaces
    settings.posting.enabled = False  # Events are posted by us, on transitions
    settings.watching.server_timeout = 600
    settings.watching.client_timeout = 660
    settings.watching.inactivity_timeout = 70
    settings.watching.chunk_size = 500
    for kind in WATCHED:
        if kind.selector:
            settings.watching.label_selectors[kind.group, kind.version, kind.plural] = kind.selector
    settings.networking.connect_timeout = 10
    settings.networking.request_timeout = 60
    settings.networking.error_backoffs = (0.2, 1, 2, 5, 10)
    settings.queueing.idle_timeout = 1
    settings.execution.max_workers = 1
    settings.persistence.finalizer = "imagefleet.dev/unused"
    settings.persistence.diffbase_storage = NoDiffBase()
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix="kopf.imagefleet.dev")
    settings.process.ultimate_exiting_timeout = 20  # under the pod's grace period
    return settings
