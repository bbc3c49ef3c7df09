# The chart is rendered with each set of values in its ci/ folder; helm comes from the local cluster's programs.
CHART := charts/imagefleet
CHART_KUBE_VERSION := 1.36.0
HELM ?= $(shell $(PY) -c 'from tests.cluster.build import HELM, ensure; print(ensure(HELM) / "helm")')

.PHONY: chart-lint
chart-lint: $(VENV) ## Lint the chart and what it renders
	@helm=$(HELM); for values in $(CHART)/ci/*-values.yaml; do \
	  $$helm lint --strict --quiet --kube-version $(CHART_KUBE_VERSION) --values $$values $(CHART); \
	  $$helm template imagefleet $(CHART) --namespace imagefleet-system --kube-version $(CHART_KUBE_VERSION) \
	    --values $$values | .venv/bin/yamllint --strict --config-file $(CHART)/ci/yamllint.yaml - \
	    || { echo "rendered with $$values" >&2; exit 1; }; \
	done

.PHONY: chart-readme check-chart-readme
generate: chart-readme
chart-readme: $(VENV)
	@$(PY) -m scripts.chart_readme

check-generated: check-chart-readme
check-chart-readme: $(VENV)
	@$(PY) -m scripts.chart_readme --check
