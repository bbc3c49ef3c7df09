# The three container images. IMAGE_REGISTRY is a prefix such as registry.example.com/team (none: local names only),
# TAG the version; PUSH=1 pushes what was built.
IMAGE_COMPONENTS := operator gateway worker
IMAGE_REGISTRY ?=
TAG ?= $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' pyproject.toml)
IMAGE_PREFIX = $(if $(IMAGE_REGISTRY),$(patsubst %/,%,$(IMAGE_REGISTRY))/)imagefleet-

# The first engine that answers: the docker command alone is not enough, its daemon must run.
FIND_ENGINE = for engine in docker podman buildah; do \
  if command -v $$engine >/dev/null 2>&1 && $$engine info >/dev/null 2>&1; then echo $$engine; exit 0; fi; done
CONTAINER_ENGINE ?= $(shell $(FIND_ENGINE))

.PHONY: images $(IMAGE_COMPONENTS:%=image-%)
images: $(IMAGE_COMPONENTS:%=image-%) ## Build the images (IMAGE_REGISTRY=..., TAG=..., PUSH=1)

$(IMAGE_COMPONENTS:%=image-%): image-%:
	@test -n "$(CONTAINER_ENGINE)" || { \
	  echo "no container engine answers: start docker, or install podman or buildah, or set CONTAINER_ENGINE" >&2; exit 1; }
	DOCKER_BUILDKIT=1 $(CONTAINER_ENGINE) build --file images/$*/Dockerfile --tag $(IMAGE_PREFIX)$*:$(TAG) \
	  --build-arg VERSION=$(TAG) --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) .
	$(if $(PUSH),$(CONTAINER_ENGINE) push $(IMAGE_PREFIX)$*:$(TAG))

IMAGE_LABELS := $(foreach label,title:text description:text licenses:spdx version:text revision:text,\
  org.opencontainers.image.$(label))
.PHONY: image-lint
image-lint: $(VENV) ## Lint the Dockerfiles
	@.venv/bin/hadolint --strict-labels $(IMAGE_LABELS:%=--require-label %) images/*/Dockerfile
