# The targets of this repository, the same for developers and for CI. `make demo` and `make test` set themselves up on a
# machine that has Python 3.11 or newer, make, and nothing else.

# The first Python that is new enough; `make PYTHON=/path/to/python3.12 test` chooses another.
IS_NEW_ENOUGH := -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
PYTHON ?= $(shell for p in python3 python3.15 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$p" $(IS_NEW_ENOUGH) && { echo "$$p"; break; }; done)

VENV := .venv
BIN := $(VENV)/bin
PIP_FLAGS := --disable-pip-version-check
PYTEST_ARGS ?= -q -n auto --dist loadfile

# The tests start hundreds of processes, and a sidecar whose modules are compiled at every start takes three times as long
# to be there (0.65 s of CPU instead of 0.2) and keeps the compiler's memory, which the image's does not.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo dev-up dev-down test coverage not-measured check format conformance boards mesh drills e2e spire figures simulate test-tensorflow \
	test-containers bench image lock clean

help:
	@echo 'make demo             run a mesh on this machine with real traffic through it'
	@echo 'make dev-up           run a mesh as containers (needs docker or podman); make dev-down removes it'
	@echo 'make test             run the tests, without the suites below'
	@echo 'make coverage         run the tests and fail if coverage is below the floor'
	@echo 'make not-measured     run the tests that make coverage leaves out'
	@echo 'make check            format, lint, types, import contracts, dead code, private keys in git'
	@echo 'make format           format the code and apply safe lint fixes'
	@echo 'make conformance      run third-party suites and clients (h2spec, curl, nghttp) against a sidecar'
	@echo 'make boards           draw the Grafana boards, from a real Prometheus that scrapes a mesh under load'
	@echo 'make mesh             run sidecars and whole meshes as processes: routes, control planes, workers, rotations'
	@echo 'make drills           cut links between network namespaces, rotate identities (needs root)'
	@echo 'make e2e              run a mesh in a real cluster but for the containers, built once from source'
	@echo 'make spire            run sidecars with identities of a real SPIRE, and go-spiffe, built once from source'
	@echo 'make figures          measure recovery, reloads and goodput under overload; needs a quiet machine'
	@echo 'make simulate         how often healthy rollouts are rolled back, and how fast bad ones; ten minutes'
	@echo 'make test-tensorflow  call a real SavedModel through a sidecar with the official stubs'
	@echo 'make test-containers  build the images and run them, with a Docker of its own (needs root)'
	@echo 'make bench            measure meshproxy side by side with Envoy'
	@echo 'make image            build the container image (needs docker or podman)'
	@echo 'make lock             pin what the images install, with hashes'
	@echo 'make clean            remove everything that these targets create'

# Makes the environment if there is none, and installs one of the optional dependencies of pyproject.toml into it. pip is
# not quiet, as this takes a minute or two. Where it was interrupted, `.unfinished` stays behind, and the next run begins
# with a new environment: what is half there, pip does not find out.
define install
@[ -x $(BIN)/python ] && [ ! -e $(VENV)/.unfinished ] || rm -rf $(VENV)
@mkdir -p $(VENV) && touch $(VENV)/.unfinished
@[ -x $(BIN)/python ] || $(make-venv)
@echo 'Installing into $(VENV), which takes a minute or two.'
$(BIN)/python -m pip install $(PIP_FLAGS) -e '.[$(1)]'
@rm $(VENV)/.unfinished
endef

define need-python
"$(PYTHON)" $(IS_NEW_ENOUGH) || { echo '$(if $(PYTHON),$(PYTHON) is no Python 3.11 or newer,no Python 3.11 or newer found):' \
	'install one, or run make PYTHON=/path/to/python' >&2; exit 1; }
endef

define make-venv
{ $(need-python); "$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); \
		echo '$(PYTHON) cannot make a virtual environment: on Debian and Ubuntu, apt-get install python3-venv' >&2; exit 1; }; }
endef

# The stamp files are newer than pyproject.toml while the environment is up to date.
BUILT_FROM := pyproject.toml $(wildcard $(VENV)/.unfinished)

$(VENV)/.demo: $(BUILT_FROM)
	$(call install,demo)
	@touch $@

$(VENV)/.dev: $(BUILT_FROM)
	$(call install,dev)
	@touch $@ $(VENV)/.demo

$(VENV)/.containers: $(BUILT_FROM)
	$(call install,containers)
	@touch $@ $(VENV)/.dev $(VENV)/.demo

$(VENV)/.bench: $(BUILT_FROM)
	$(call install,bench)
	@touch $@ $(VENV)/.demo

# TensorFlow pins old versions of shared dependencies, so it has its own environment.
.venv-tensorflow/.installed: pyproject.toml
	@$(need-python)
	"$(PYTHON)" -m venv .venv-tensorflow
	.venv-tensorflow/bin/python -m pip install $(PIP_FLAGS) -e '.[demo]' tensorflow-cpu pytest pytest-asyncio pytest-timeout hypothesis
	@# Without its dependencies: it requires "tensorflow", which tensorflow-cpu replaces.
	.venv-tensorflow/bin/python -m pip install $(PIP_FLAGS) --no-deps tensorflow-serving-api
	@touch $@

demo: $(VENV)/.demo
	@$(BIN)/meshproxy demo $(DEMO_ARGS)

# The Compose file; DEV_ARGS='-f FILE' adds another one.
define compose
compose=; for each in 'docker compose' 'podman compose'; do \
		if $$each version >/dev/null 2>&1; then compose=$$each; break; fi; done; \
	[ -n "$$compose" ] || { echo 'neither "docker compose" nor "podman compose" works here: install Docker with its Compose' \
		'plugin, or use .venv/bin/meshproxy dev up, which needs neither' >&2; exit 1; }; \
	$$compose -f deploy/docker-compose.yaml $(DEV_ARGS)
endef

dev-up:
	@$(compose) up --detach --wait || { echo "dev-up: \"$${compose:-compose} -f deploy/docker-compose.yaml logs\" tells more" >&2; exit 1; }
	@echo 'The mesh is ready; deploy/README.md says what to try.'
	@echo '  http://localhost:18501   the sidecar of the application: call models there'
	@echo '  http://localhost:18520   the token issuer'
	@echo '  http://localhost:9090    Prometheus'
	@echo 'The spans of calls are in the log of the service "collector".'
	@echo 'Documents are in deploy/compose/documents: edit them. make dev-down removes everything.'

dev-down:
	@$(compose) down --volumes

# Prints how long it took; pytest prints the slowest tests with PYTEST_ARGS='-q --durations=20'.
test: $(VENV)/.dev
	@echo 'make test: three to five minutes on two cores that do nothing else'
	@started=$$(date +%s); $(BIN)/pytest $(PYTEST_ARGS); status=$$?; \
		echo "make test: $$(($$(date +%s) - started)) s"; exit $$status

# A step of its own: measuring about doubles the time on Python 3.11. On 3.15 it adds next to nothing, because the
# interpreter itself tells which lines ran. Left out are the budgets, which measuring changes, and whole processes under
# load, which take many times as long on 3.11 when they are measured. The tests are thorough (tests/thorough.py).
NOT_MEASURED := tests/processes tests/test_import_budget.py tests/test_request_budget.py
coverage: $(VENV)/.dev
	$(BIN)/coverage erase
	MESHPROXY_THOROUGH=1 $(BIN)/coverage run -m pytest $(PYTEST_ARGS) $(addprefix --ignore=,$(NOT_MEASURED))
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

not-measured: $(VENV)/.dev
	$(BIN)/pytest $(PYTEST_ARGS) $(NOT_MEASURED)

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/vulture
	@! git grep -lE -e '-----BEGIN ([A-Z0-9]+ )*PRIVATE KEY-----' -- . || { echo 'a private key is in git: delete it, and generate keys where they are needed' >&2; exit 1; }

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Programs of others that tests start, from pinned, checksummed modules: they are kept outside of the checkout, by what
# they were built from.
built_from = $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/meshproxy/$(1)-$(shell cat $(2) | sha256sum | cut -c -12)
define will_build
@command -v go >/dev/null || { echo 'go is needed to build $(1)' >&2; exit 1; }
@echo 'Building into $(2), which takes $(3).'
endef

# Built from the pinned, checksummed modules of tests/conformance/h2spec/go.mod.
.cache/bin/h2spec: tests/conformance/h2spec/go.mod tests/conformance/h2spec/go.sum
	@command -v go >/dev/null || { echo 'go is needed to build h2spec' >&2; exit 1; }
	cd tests/conformance/h2spec && go build -o ../../../$@ github.com/summerwind/h2spec/cmd/h2spec

# Prometheus and promtool without the discoveries of clouds and without the pages for a browser.
PROMETHEUS_BIN = $(call built_from,prometheus,tests/conformance/prometheus/go.mod tests/conformance/prometheus/go.sum)
PROMETHEUS = github.com/prometheus/prometheus/cmd
.PHONY: prometheus-binaries prometheus-folder
prometheus-folder:
	@echo $(PROMETHEUS_BIN)
prometheus-binaries:
	$(call will_build,Prometheus and promtool,$(PROMETHEUS_BIN),ten minutes or more)
	nice go build -C tests/conformance/prometheus -tags remove_all_sd -trimpath -ldflags '-s -w' -o $(PROMETHEUS_BIN)/ \
		$(PROMETHEUS)/prometheus $(PROMETHEUS)/promtool

# The release that the distribution has, unpacked: years older, with other rules for what it scrapes.
.cache/prometheus/usr/bin/prometheus:
	mkdir -p .cache/prometheus
	cd .cache/prometheus && { apt-get download prometheus || { apt-get update && apt-get download prometheus; }; } \
		&& dpkg -x prometheus_*.deb . && rm prometheus_*.deb

# An OpenTelemetry Collector with what the tests need of it.
COLLECTOR_BIN = $(call built_from,collector,tests/conformance/collector/*)
.PHONY: collector-binaries collector-folder
collector-folder:
	@echo $(COLLECTOR_BIN)
collector-binaries:
	$(call will_build,an OpenTelemetry Collector,$(COLLECTOR_BIN),five minutes)
	CGO_ENABLED=0 nice go build -C tests/conformance/collector -trimpath -ldflags '-s -w' -o $(COLLECTOR_BIN)/collector .

# Keycloak and oidc-provider. Where they cannot be had, their tests are skipped.
ISSUERS = tests/conformance/issuers
KEYCLOAK_HOME = $(call built_from,keycloak,$(ISSUERS)/fetch.sh)
OIDC_PROVIDER_HOME = $(call built_from,oidc-provider,$(ISSUERS)/*)
.PHONY: issuers issuers-folder
issuers-folder:
	@echo $(KEYCLOAK_HOME)
issuers:
	@[ -d $(KEYCLOAK_HOME) ] || { echo 'Fetching Keycloak into $(KEYCLOAK_HOME): 180 MB, and a minute of processor time.'; \
		$(ISSUERS)/fetch.sh keycloak $(KEYCLOAK_HOME) || echo 'without Keycloak: its tests are skipped'; }
	@[ -d $(OIDC_PROVIDER_HOME) ] || $(ISSUERS)/fetch.sh oidc-provider $(OIDC_PROVIDER_HOME) || \
		echo 'without oidc-provider: its tests are skipped'

conformance: $(VENV)/.dev .cache/bin/h2spec $(shell command -v apt-get >/dev/null && echo .cache/prometheus/usr/bin/prometheus)
	@[ -x $(PROMETHEUS_BIN)/prometheus ] && [ -x $(PROMETHEUS_BIN)/promtool ] || $(MAKE) --no-print-directory prometheus-binaries
	@[ -x $(COLLECTOR_BIN)/collector ] || $(MAKE) --no-print-directory collector-binaries
	@$(MAKE) --no-print-directory issuers
	@for tool in curl nghttp; do command -v $$tool >/dev/null || \
		{ echo "$$tool is missing: on Debian and Ubuntu, apt-get install curl nghttp2-client" >&2; exit 1; }; done
	@command -v chromium >/dev/null || echo 'without a browser: on Debian and Ubuntu, apt-get install chromium'
	@command -v apt-get >/dev/null || echo 'without an older Prometheus: it is a package of Debian'
	PROMETHEUS_BIN=$(PROMETHEUS_BIN) COLLECTOR_BIN=$(COLLECTOR_BIN) \
		KEYCLOAK_HOME=$$([ -d $(KEYCLOAK_HOME) ] && echo $(KEYCLOAK_HOME)) \
		OIDC_PROVIDER_HOME=$$([ -d $(OIDC_PROVIDER_HOME) ] && echo $(OIDC_PROVIDER_HOME)) \
		$(BIN)/pytest -q tests/conformance $(CONFORMANCE_ARGS) \
		$$(command -v chromium >/dev/null || echo --ignore-glob '*/test_browser.py' --ignore-glob '*/test_page.py')

# Draws the boards of deploy/grafana as they look in a run of a minute, for docs/boards.md.
boards: $(VENV)/.dev
	@[ -x $(PROMETHEUS_BIN)/prometheus ] || $(MAKE) --no-print-directory prometheus-binaries
	mkdir -p docs/boards
	BOARD_PICTURES=docs/boards PROMETHEUS_BIN=$(PROMETHEUS_BIN) $(BIN)/pytest -q tests/conformance/test_boards.py

# tests/processes has what one sidecar or two do, tests/mesh what takes several processes and most of a minute each.
mesh: $(VENV)/.dev
	$(BIN)/pytest $(PYTEST_ARGS) tests/processes tests/mesh

# Each host is a network namespace that the test creates: nothing outside of them is changed. DRILLS_LANE=off
# closes the express lane.
drills: $(VENV)/.dev
	@test "$$(id -u)" = 0 || { echo 'network namespaces need root' >&2; exit 1; }
	@for tool in ip nft; do command -v $$tool >/dev/null || \
		{ echo "$$tool is missing: on Debian and Ubuntu, apt-get install iproute2 nftables" >&2; exit 1; }; done
	@ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 || \
		{ echo 'libfaketime is missing: on Debian and Ubuntu, apt-get install libfaketime' >&2; exit 1; }
	$(BIN)/pytest -q -rP -p no:xdist tests/drills

# etcd and the API server take 20 minutes of processor time.
E2E_BIN = $(call built_from,e2e,tests/e2e/*/go.mod tests/e2e/*/go.sum)
KUBERNETES = $(shell sed -n 's/^.k8s.io\/kubernetes \(v[0-9.]*\).*/\1/p' tests/e2e/kube/go.mod)
# Most of the time of a test is waited for leases, grace periods and probes. Each worker has a cluster of its own. The
# order of files is that of tests/e2e/conftest.py: xdist would take those that are one long test last.
E2E_WORKERS ?= -n 4 --dist loadfile --no-loadscope-reorder
# Helm has a folder of its own: three minutes that change apart from those.
HELM_BIN = $(call built_from,helm,tests/e2e/tools/helm/go.mod tests/e2e/tools/helm/go.sum)
e2e: $(VENV)/.dev
	@[ -x $(E2E_BIN)/etcd ] && [ -x $(E2E_BIN)/kube-apiserver ] || $(MAKE) --no-print-directory e2e-binaries
	@[ -x $(HELM_BIN)/helm ] || $(MAKE) --no-print-directory e2e-helm
	@[ "$$(id -u)" = 0 ] || echo 'without pods: they are processes in namespaces, which need root'
	E2E_BIN=$(E2E_BIN) HELM_BIN=$(HELM_BIN) $(BIN)/pytest -q $(E2E_WORKERS) tests/e2e $(E2E_ARGS) \
		$$([ "$$(id -u)" = 0 ] || echo --ignore tests/e2e/test_story.py --ignore tests/e2e/test_node.py)

.PHONY: e2e-binaries e2e-folder
e2e-folder:
	@echo $(E2E_BIN)
e2e-binaries:
	$(call will_build,etcd and the API server of Kubernetes,$(E2E_BIN),ten minutes or more)
	CGO_ENABLED=0 go build -C tests/e2e/etcd -trimpath -ldflags '-s -w' -o $(E2E_BIN)/etcd go.etcd.io/etcd/server/v3
	CGO_ENABLED=0 go build -C tests/e2e/kube -trimpath \
		-ldflags '-s -w -X k8s.io/component-base/version.gitVersion=$(KUBERNETES)' -o $(E2E_BIN)/ \
		k8s.io/kubernetes/cmd/kube-controller-manager k8s.io/kubernetes/cmd/kubectl k8s.io/kubernetes/cmd/kube-apiserver

.PHONY: e2e-helm helm-folder
helm-folder:
	@echo $(HELM_BIN)
e2e-helm:
	$(call will_build,Helm,$(HELM_BIN),some minutes)
	CGO_ENABLED=0 go build -C tests/e2e/tools/helm -trimpath -ldflags '-s -w' -o $(HELM_BIN)/helm helm.sh/helm/v4/cmd/helm

# SPIRE and a workload of go-spiffe.
SPIRE_BIN = $(call built_from,spire,tests/spire/build.sh tests/spire/peer/*)
spire: $(VENV)/.dev
	@[ -x $(SPIRE_BIN)/peer ] || $(MAKE) --no-print-directory spire-binaries
	SPIRE_BIN=$(SPIRE_BIN) $(BIN)/pytest -q -rP -p no:xdist tests/spire

.PHONY: spire-binaries spire-folder
spire-folder:
	@echo $(SPIRE_BIN)
spire-binaries:
	$(call will_build,SPIRE and go-spiffe,$(SPIRE_BIN),five minutes)
	tests/spire/build.sh $(SPIRE_BIN)

# Latencies and goodput, asserted and printed: not part of CI, whose machine is shared.
figures: $(VENV)/.dev
	$(BIN)/pytest -q -rP -p no:xdist tests/figures

# How often healthy rollouts are rolled back, and how fast bad ones are: some ten minutes on two cores. Draws the pictures
# of docs/rollouts.md; seeds are fixed. Then, for docs/drift.md, how often stable models are said to have changed.
simulate: $(VENV)/.dev
	$(BIN)/python -m benchmarks.rollouts --pictures docs/rollouts $(SIMULATE_ARGS)
	$(BIN)/python -m benchmarks.rollouts.stable_traffic $(DRIFT_ARGS)

test-tensorflow: .venv-tensorflow/.installed
	.venv-tensorflow/bin/pytest -q tests/tensorflow

# The base image, Prometheus and Docker Compose come from Debian's packages, once, in .cache; everything else is built anew.
# Docker runs in a network namespace.
test-containers: $(VENV)/.containers
	@[ -x $(COLLECTOR_BIN)/collector ] || $(MAKE) --no-print-directory collector-binaries
	@test "$$(id -u)" = 0 || { echo 'images are built as root here' >&2; exit 1; }
	@for tool in podman runc mmdebstrap dockerd docker ip iptables; do command -v $$tool >/dev/null || \
		{ echo "$$tool is missing: on Debian and Ubuntu, apt-get install podman runc netavark mmdebstrap docker.io iproute2 iptables" >&2; exit 1; }; done
	COLLECTOR_BIN=$(COLLECTOR_BIN) $(BIN)/pytest -q -rP -p no:xdist --timeout 900 tests/containers

# After a change of the dependencies in pyproject.toml, and to take newer releases. Left out are 16 MB that are loaded only
# by rich to highlight source code and to show Markdown, by httpx2 for HTTP/2 and WebSockets, and by cffi to make modules.
LOCK := $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.13 --no-python-downloads --generate-hashes --no-header --no-annotate \
	$(addprefix --no-emit-package ,pygments markdown-it-py mdurl h2 hpack hyperframe wsproto pycparser)
lock: $(VENV)/.containers
	$(LOCK) --extra control pyproject.toml --output-file deploy/image/requirements.txt
	$(LOCK) --extra control --extra demo pyproject.toml --output-file deploy/image/requirements-development.txt
	$(LOCK) deploy/image/build.in --output-file deploy/image/requirements-build.txt

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

image:
	@for engine in docker podman; do \
		if "$$engine" info >/dev/null 2>&1; then exec "$$engine" build -t meshproxy:dev .; fi; \
	done; \
	echo 'docker, with its daemon, or podman is needed to build the image' >&2; exit 1

clean:
	rm -rf .venv .venv-* .cache .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage* dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
