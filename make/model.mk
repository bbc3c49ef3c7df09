# The demo's models in build/models: tiny pipelines with random weights, made without a network, and the shapes models,
# which draw what they are told (docs/models.md). The trained ones are part of the repository; their bad variants are made.
TINY_MODELS := tiny-1 tiny-2
SHAPES_MODELS := shapes-1 shapes-2
SHAPES_VARIANTS := shapes-degraded shapes-slow shapes-unsafe shapes-broken shapes-unloadable
DEMO_MODELS := $(TINY_MODELS) $(SHAPES_MODELS) $(SHAPES_VARIANTS)
QUIETLY := TRANSFORMERS_VERBOSITY=error DIFFUSERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1

.PHONY: demo-model
demo-model: $(DEMO_MODELS:%=build/models/%/model_index.json) ## Make the demo's models in build/models

$(TINY_MODELS:%=build/models/%/model_index.json): build/models/tiny-%/model_index.json: scripts/demo_model.py | $(VENV)
	@echo "making the demo model $(@D)" >&2
	@$(QUIETLY) $(PY) $< --out $(@D) --seed $*

$(SHAPES_MODELS:%=build/models/%/model_index.json): build/models/%/model_index.json: $(wildcard models/*/*/*) models/%/model_index.json
	@rm -rf $(@D) && mkdir -p build/models && cp -R models/$* $(@D) && touch $@

# One process for all: most of its time goes into its imports.
$(SHAPES_VARIANTS:%=build/models/%/model_index.json) &: shapes/variants.py $(wildcard models/shapes-2/*/*) | $(VENV)
	@echo "making the demo models $(SHAPES_VARIANTS)" >&2
	@$(QUIETLY) $(PY) -m shapes.variants --model models/shapes-2 --out build/models $(SHAPES_VARIANTS)

# About two hours on two cores. What it writes is committed by hand: models/*/README.md says how each version was made.
.PHONY: train-shapes
train-shapes: $(VENV) ## Train the shapes model anew, into build/train/shapes/model
	@$(PY) -m shapes.train_vae --out build/train/vae
	@$(PY) -m shapes.train_vae --start build/train/vae --decoder-only --out build/train/vae --steps 1000 --seed 2
	@$(PY) -m shapes.train_unet --vae build/train/vae --out build/train/shapes
