# What follows from the models of operator/imagefleet_operator/api is written by one command and committed.
.PHONY: generate check-generated
generate: $(VENV) ## Write the CRDs, the chart's copies of them and the API reference
	@$(PY) -m scripts.generate_crds

check-generated: $(VENV) ## Fail where `make generate` would change a file
	@$(PY) -m scripts.generate_crds --check
