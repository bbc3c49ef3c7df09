# The demo's models: tiny pipelines with random weights, made without a network.
DEMO_MODELS := tiny-1 tiny-2

.PHONY: demo-model
demo-model: $(DEMO_MODELS:%=build/models/%/model_index.json) ## Make the demo's models in build/models

build/models/tiny-%/model_index.json: scripts/demo_model.py | $(VENV)
	@echo "making the demo model $(@D)" >&2
	@TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1 $(PY) $< --out $(@D) --seed $*
