# Real servers for the tests of remote sources (tests/servers): an S3 gateway, an OCI registry, a fake of Google's.
.PHONY: servers-build
servers-build: $(VENV) ## Build the servers that tests fetch models from (the first time: about five minutes)
	@$(PY) -m tests.servers.build

test test-integration: servers-build
