.DEFAULT_GOAL := help
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# An environment of another Python than the one asked for is no use: `make PYTHON=python3.13 test` makes it anew.
ifeq ($(wildcard $(BIN)/$(notdir $(PYTHON))),)
.PHONY: $(STAMP)
endif
ROOMS := tasks adapters config functions bentos infra runners tools
MINUTES ?= 10
KILLS ?= 200
SEED ?= 7
KUSTOMIZE_VERSION := v5.7.1
COMPILE := $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate --no-header --quiet

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(STAMP) ## start everything on this machine; RUNNERS=flux-1-dev=2: a runner on each of two GPUs
	@exec $(BIN)/python -m infra.local

test: $(STAMP) ## run the whole suite against a broker and a store of its own: PYTHON=python3.13
	$(BIN)/python -m pytest $(ARGS)

soak: $(STAMP) ## kill, stop and restart every part under load: MINUTES=10 KILLS=200 SEED=7
	$(BIN)/python -m tests.proofs.soak --minutes $(MINUTES) --kills $(KILLS) --seed $(SEED) $(ARGS)

check: $(STAMP) ## lint, format, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(ROOMS)
	$(BIN)/lint-imports --no-logo

fmt: $(STAMP) ## mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lambda-check: $(STAMP) ## build the Lambda function and call it through the runtime interface emulator, which this installs
	infra/lambda/package.sh .local/lambda "$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
	@rm -rf .local/lambda/emulator
	$(BIN)/uv pip install --quiet --target .local/lambda/emulator awslambdaric==4.2.2
	$(BIN)/uv pip install --quiet --target .local/lambda/emulator --no-deps aws-sam-cli==1.170.0
	@chmod +x .local/lambda/emulator/samcli/local/rapid/aws-lambda-rie-*
	LAMBDA_EMULATOR=.local/lambda $(BIN)/python -m pytest tests/e2e/test_fed_by_platforms.py -k lambda $(ARGS)

bench: $(STAMP) ## measure: submit to first event, throughput, backlog, the engine
	$(BIN)/python -m tools.bench

build: $(STAMP) ## build a Bento of the gateway and one of each model in model_cache
	$(BIN)/python -m bentos.build

docs: $(STAMP) ## write the tables that are made from code
	$(BIN)/python -m tools.generate_docs

lock: $(STAMP) ## resolve the requirements anew, with the newest releases: ARGS=--upgrade
	$(COMPILE) $(ARGS) --extra runner --extra local --extra dev -o requirements/dev.txt
	$(COMPILE) $(ARGS) -c requirements/dev.txt -o requirements/gateway.txt
	$(COMPILE) $(ARGS) -c requirements/dev.txt --extra runner -o requirements/runner.txt
	$(BIN)/python -m infra.local.java_lock

kubernetes-check: $(STAMP) ## build infra/kubernetes with kustomize and validate it; needs Go
	GOBIN=$(CURDIR)/.local/go go install sigs.k8s.io/kustomize/kustomize/v5@$(KUSTOMIZE_VERSION)
	$(BIN)/python -m tools.kubernetes .local/go/kustomize

clean: ## remove what was made here: environment, data, logs
	rm -rf $(VENV) .local logs

$(STAMP): requirements/dev.txt requirements/uv.txt
	@test -x $(BIN)/$(notdir $(PYTHON)) || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements/uv.txt requirements/dev.txt
	@touch $@

.PHONY: help run test lambda-check kubernetes-check soak check fmt bench build docs lock clean
