# `make demo` and `make test` are all that a new user needs; both prepare what they use.
# FUMEHOOD_INSTALL_ENGINE=1 answers yes where an engine has to be installed or started.

PYTHON = .venv/bin/python

.PHONY: help demo test check bench podman torture clean venv

help:
	@echo 'make demo     the main job on a small repository, in a real box'
	@echo 'make test     all tests, the box tests as root and as an unprivileged user'
	@echo 'make check    ruff, mypy --strict, import-linter'
	@echo 'make bench    the figures, each beside its floor'
	@echo 'make podman   a selection of the tests over Podman, as root'
	@echo 'make torture  the tests that take long'
	@echo 'make clean    remove what these made in this directory'

venv:
	@.ci/venv .venv

demo: venv
	@.ci/engine $(PYTHON) -m runner.demo

test: venv
	@.ci/engine .ci/test

check: venv
	@status=0; \
	for check in '-m ruff check .' '-m ruff format --check .' '-m mypy' '.venv/bin/lint-imports'; do \
	    echo "== $$check"; $(PYTHON) $$check || status=1; \
	done; exit $$status

bench: venv
	@.ci/engine $(PYTHON) -m tests.bench

podman: venv
	@.ci/podman

torture: venv
	@FUMEHOOD_NO_SKIP=1 .ci/engine $(PYTHON) -m pytest -m slow --slow all

clean:
	rm -rf .venv build dist bench-*.json .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
