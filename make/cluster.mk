# The local cluster: a real control plane and nodes that run pods as processes (docs/local-cluster.md).
CLUSTER_DIR ?= .cluster
CLUSTER_NODES ?= 1
CLUSTER_GPUS ?= 8
# More options of `python -m tests.cluster up`. What the worker's image would hold comes from build/models.
CLUSTER_ARGS ?= --image-mount /models=build/models

.PHONY: cluster-build cluster-up cluster-down
cluster-build: $(VENV) ## Build the programs of the local cluster (the first time: about ten minutes)
	@$(PY) -m tests.cluster build

cluster-up: $(VENV) demo-model ## Start the local cluster (CLUSTER_NODES=1 CLUSTER_GPUS=8) and leave it running
	@$(PY) -m tests.cluster up --folder $(CLUSTER_DIR) --nodes $(CLUSTER_NODES) --gpus $(CLUSTER_GPUS) $(CLUSTER_ARGS)

cluster-down: $(VENV) ## End the local cluster and everything that runs in it
	@$(PY) -m tests.cluster down --folder $(CLUSTER_DIR)
