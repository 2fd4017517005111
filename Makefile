# Two commands are all that a new machine needs: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
INPUTS := pyproject.toml constraints.txt

.PHONY: demo demo-smoke test test-all lint types layers mutants bench docs clean

demo: .venv/core.stamp
	$(BIN)/confide train examples/demo.yaml

demo-smoke: .venv/core.stamp
	$(BIN)/confide train examples/demo.yaml --set name=demo-smoke --set training.epochs=1 --fresh

test: lint layers types
	$(BIN)/python -m pytest -n 2 -m "not slow" -q

test-all: .venv/dev.stamp
	$(BIN)/python -m pytest -n 2 -q

lint: .venv/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

layers: .venv/dev.stamp
	$(BIN)/lint-imports

types: .venv/dev.stamp
	$(BIN)/pyright

mutants: .venv/dev.stamp
	$(BIN)/python -m tests.mutants

# Every benchmark, one after the other (about an hour on two cores), then the page made from their records.
bench: .venv/dev.stamp
	for name in startup accounting noise ledger ingest steerable audit peers precision parts scaling zoo; do \
	  test ! -f benchmarks/$$name.py || $(BIN)/python -m benchmarks.$$name || exit 1; done
	$(BIN)/python -m benchmarks.page

docs: .venv/docs.stamp
	$(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf .venv build dist site

# A stamp is newer than its inputs exactly when nothing is left to install.
.venv/core.stamp: $(INPUTS)
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/dev.stamp: $(INPUTS)
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ .venv/core.stamp

.venv/docs.stamp: .venv/dev.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@
