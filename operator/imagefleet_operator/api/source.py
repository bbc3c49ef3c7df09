"""Where files of a model or of an adapter are: the grammar of each scheme, and what a worker needs to reach them."""

from typing import Annotated

from pydantic import ConfigDict, Field

from imagefleet_operator.api.checks import Checked, pattern
from imagefleet_operator.api.common import ApiModel, rule, rules

REMOTE_SCHEMES = ("hf", "s3", "gs", "oci")
"""Sources that are fetched into the node cache; the other ones are folders that a worker sees."""

_CLAIM = "[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
_FOLDER_NAME = "([^/.]|[.][^/.]|[.][.][^/])[^/]*"  # neither empty nor '.' nor '..'
_HUB_NAME = "[A-Za-z0-9_][A-Za-z0-9._-]{0,95}"
_BUCKET = "[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]"
_REPOSITORY = "[a-z0-9]+([._-]+[a-z0-9]+)*"
_TAG = "[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
URI_CHECKS = (
    pattern(
        "[A-Za-z0-9:/._@+=,~-]*",
        "uri may hold letters, digits and . _ - @ + = , ~ only: rename the folder (no spaces, no %-encoding)",
    ),
    pattern(
        "(file|pvc|hf|s3|gs|oci)://.*",
        "uri must begin with file://, pvc://, hf://, s3://, gs:// or oci://: write file:///models/NAME for a "
        "folder of the worker's image, pvc://CLAIM/PATH for one of a PersistentVolumeClaim, or "
        "hf://OWNER/NAME@COMMIT, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, oci://REGISTRY/REPOSITORY@sha256:DIGEST",
    ),
    pattern(
        "file:///[^/].*",
        "a file:// uri holds an absolute path, so three slashes: write file:///models/NAME",
        prefix="file://",
    ),
    pattern(
        f"pvc://{_CLAIM}/[^/].*",
        "a pvc:// uri holds the name of a PersistentVolumeClaim of this namespace and the folder in it: "
        "write pvc://CLAIM/PATH, the claim's name in lowercase letters, digits, '-' and '.'",
        prefix="pvc://",
    ),
    pattern(
        f"hf://{_HUB_NAME}/{_HUB_NAME}(@[^/]*)?(/.*)?",
        "an hf:// uri names a repository of the hub by its owner and its name: write hf://OWNER/NAME@COMMIT, or "
        "hf://OWNER/NAME@COMMIT/FOLDER",
        prefix="hf://",
    ),
    pattern(
        "hf://[^@]*@[0-9a-f]{40}(/.*)?",
        "an hf:// uri pins its revision, since a branch or tag may move: write hf://OWNER/NAME@COMMIT with the "
        "commit's 40 hex digits, as `git ls-remote https://huggingface.co/OWNER/NAME` prints them",
        prefix="hf://",
    ),
    *(
        pattern(
            f"{scheme}://{_BUCKET}/[^/].*",
            f"{article} {scheme}:// uri holds the bucket's name (lowercase letters, digits and . _ -, at least 3) and "
            f"the prefix of the model's objects: write {scheme}://BUCKET/PREFIX",
            prefix=f"{scheme}://",
        )
        for article, scheme in (("an", "s3"), ("a", "gs"))
    ),
    pattern(
        f"oci://[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{{1,5}})?(/{_REPOSITORY})+"
        f"(@sha256:[0-9a-f]{{64}}|:{_TAG})",
        "an oci:// uri names a registry, a repository in lowercase and a digest or tag: write "
        "oci://REGISTRY/REPOSITORY@sha256:DIGEST with 64 hex digits, or oci://REGISTRY/REPOSITORY:TAG",
        prefix="oci://",
    ),
    pattern(
        f"([a-z0-9]+://)?[^/]*(/{_FOLDER_NAME})*/?",
        "uri must not hold '.', '..' or empty parts: write the folder's own path",
    ),
)
DIGEST_CHECK = pattern(
    "sha256:[0-9a-f]{64}",
    "digest must be sha256: and 64 lowercase hex digits: copy what `imagefleet-worker verify --uri URI` "
    "prints, or leave digest out",
)
SECRET_NAME_CHECK = pattern(
    "[a-z0-9]([-a-z0-9.]*[a-z0-9])?",
    "secretRef.name must be the name of a Secret of this namespace: lowercase letters, digits, '-' and '.'",
)
NO_SECRET_RULE = rule(
    f"!has(self.secretRef) || self.uri.matches('^({'|'.join(REMOTE_SCHEMES)})://')",
    "files of the image or of a claim need no credentials: leave secretRef out, or name a remote source "
    "(hf, s3, gs, oci)",
    path=".secretRef",
    reason="FieldValueForbidden",
)

_URI = (
    "file:///PATH is a folder of the worker's image, or of a volume that the pool's podTemplate mounts. "
    "pvc://CLAIM/PATH is a folder of the PersistentVolumeClaim CLAIM of this namespace, which workers mount "
    "read-only. hf://OWNER/NAME@COMMIT[/FOLDER] is a repository of the Hugging Face hub, s3://BUCKET/PREFIX and "
    "gs://BUCKET/PREFIX are objects of a bucket, oci://REGISTRY/REPOSITORY@sha256:DIGEST or :TAG is an artifact: "
    "these four are fetched into the node's cache."
)


class SecretRef(ApiModel):
    """A Secret of the resource's namespace."""

    name: Annotated[str, Checked(SECRET_NAME_CHECK)] = Field(
        description="The Secret's name, in this namespace.", min_length=1, max_length=253
    )


class AdapterSource(ApiModel):
    """Where the file of an adapter is, and what it must be."""

    model_config = ConfigDict(json_schema_extra=rules(NO_SECRET_RULE))

    uri: Annotated[str, Checked(*URI_CHECKS)] = Field(
        description=f"The folder with one .safetensors file. {_URI} Required.",
        min_length=1,
        max_length=1024,
    )
    digest: Annotated[str, Checked(DIGEST_CHECK)] | None = Field(
        default=None,
        description="The SHA-256 digest that the folder must have: sha256: and 64 hex digits. Files with another "
        "digest never serve. Absent: whatever is there at verification, which status.adapters[].digest then says.",
        max_length=71,
    )
    secret_ref: SecretRef | None = Field(
        default=None,
        description="The Secret with the credentials of a remote source. Keys: token (hf); accessKeyId, "
        "secretAccessKey, region, endpoint (s3); serviceAccountKey (gs); username, password or .dockerconfigjson "
        "(oci). Absent: the pod's own identity, else none.",
    )

    @property
    def remote(self) -> bool:
        """Whether it is fetched into the node cache."""
        return self.uri.partition("://")[0] in REMOTE_SCHEMES

    @property
    def claim(self) -> str | None:
        """The PersistentVolumeClaim that holds the folder; None where no claim does."""
        scheme, _, rest = self.uri.partition("://")
        return rest.partition("/")[0] if scheme == "pvc" else None

    @property
    def folder(self) -> str | None:
        """The folder on a worker: file:///models/a is /models/a, pvc://weights/a is /pvc/weights/a; None where
        the files are fetched."""
        if self.remote:
            return None
        path = (
            self.uri.removeprefix("file://")
            if self.claim is None
            else "/pvc/" + self.uri.removeprefix("pvc://")
        )
        return path.rstrip("/")


class Source(AdapterSource):
    """Where the files of a model are, and what they must be."""

    uri: Annotated[str, Checked(*URI_CHECKS)] = Field(
        description=f"The folder with model_index.json and the weights. {_URI} Required; cannot be changed.",
        min_length=1,
        max_length=1024,
    )
    digest: Annotated[str, Checked(DIGEST_CHECK)] | None = Field(
        default=None,
        description="The SHA-256 digest that the folder must have: sha256: and 64 hex digits, as "
        "`imagefleet-worker verify` prints it. Files with another digest never serve. Absent: whatever is "
        "there at verification, which status.digest then says. Cannot be changed.",
        max_length=71,
    )
