# The words of this repository, the same for a person and for CI. `make demo` and `make test` do all their own set-up
# on a machine that has Python 3.11 or newer, make, and nothing else.

# The first Python that is new enough; `make PYTHON=/path/to/python3.12 test` chooses another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)

VENV := .venv
BIN := $(VENV)/bin
PIP_FLAGS := --quiet --disable-pip-version-check
PYTEST_ARGS ?= -q -n auto --dist loadfile

.PHONY: help demo test check format conformance drills test-tensorflow bench image clean

help:
	@echo 'make demo             a sidecar before a model server on this machine, with real traffic through it'
	@echo 'make test             the tests of this repository'
	@echo 'make check            format, lint, types, direction of imports, no private key in git'
	@echo 'make format           format and fix what can be fixed'
	@echo 'make conformance      suites and clients of other people against a running sidecar'
	@echo 'make drills           hosts of our own (network namespaces), whose links are cut and whose connections are redirected'
	@echo 'make test-tensorflow  a real SavedModel, called with the official stubs'
	@echo 'make bench            against Envoy, side by side'
	@echo 'make image            the container image (needs docker or podman)'
	@echo 'make clean            remove everything that the words above have made'

# A stamp remembers what was installed; it is older than pyproject.toml when that must be done again.
$(BIN)/python:
	@test -n "$(PYTHON)" || { echo 'no Python 3.11 or newer found: install one, or say make PYTHON=/path/to/python' >&2; exit 1; }
	@"$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); \
		echo '$(PYTHON) cannot make a virtual environment: on Debian and Ubuntu, apt-get install python3-venv' >&2; exit 1; }

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install $(PIP_FLAGS) -e '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install $(PIP_FLAGS) -e '.[dev]'
	@touch $@ $(VENV)/.demo

$(VENV)/.bench: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install $(PIP_FLAGS) -e '.[bench]'
	@touch $@ $(VENV)/.demo

# TensorFlow is large and old-fashioned about its dependencies: it never shares an environment with the rest.
.venv-tensorflow/.installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo 'no Python 3.11 or newer found' >&2; exit 1; }
	"$(PYTHON)" -m venv .venv-tensorflow
	.venv-tensorflow/bin/python -m pip install $(PIP_FLAGS) -e '.[demo]' tensorflow-cpu pytest pytest-asyncio pytest-timeout hypothesis
	@# Without its dependencies: it asks for "tensorflow", and tensorflow-cpu is that package under another name.
	.venv-tensorflow/bin/python -m pip install $(PIP_FLAGS) --no-deps tensorflow-serving-api
	@touch $@

demo: $(VENV)/.demo
	@$(BIN)/meshproxy demo $(DEMO_ARGS)

test: $(VENV)/.dev
	$(BIN)/pytest $(PYTEST_ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	@! git grep -lE -e '-----BEGIN ([A-Z0-9]+ )*PRIVATE KEY-----' -- . || { echo 'a private key is tracked: generate it where it is needed' >&2; exit 1; }

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Built of pinned, checksummed modules: tests/conformance/h2spec/go.mod.
.cache/bin/h2spec: tests/conformance/h2spec/go.mod tests/conformance/h2spec/go.sum
	@command -v go >/dev/null || { echo 'go is needed to build h2spec' >&2; exit 1; }
	cd tests/conformance/h2spec && go build -o ../../../$@ github.com/summerwind/h2spec/cmd/h2spec

conformance: $(VENV)/.dev .cache/bin/h2spec
	@for tool in curl nghttp; do command -v $$tool >/dev/null || \
		{ echo "$$tool is missing: on Debian and Ubuntu, apt-get install curl nghttp2-client" >&2; exit 1; }; done
	$(BIN)/pytest -q tests/conformance

# Each host is a network namespace that the test makes itself: nothing outside of them is touched.
drills: $(VENV)/.dev
	@test "$$(id -u)" = 0 || { echo 'network namespaces need root' >&2; exit 1; }
	@for tool in ip nft; do command -v $$tool >/dev/null || \
		{ echo "$$tool is missing: on Debian and Ubuntu, apt-get install iproute2 nftables" >&2; exit 1; }; done
	$(BIN)/pytest -q -rP -p no:xdist tests/drills

test-tensorflow: .venv-tensorflow/.installed
	.venv-tensorflow/bin/pytest -q tests/tensorflow

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

image:
	@engine=$$(command -v docker || command -v podman) || { echo 'no docker or podman here: the image cannot be built' >&2; exit 1; }; \
		"$$engine" build -t meshproxy:dev .

clean:
	rm -rf $(VENV) .venv-tensorflow .cache .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage* dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
