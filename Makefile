# Every command of the project. `make demo` and `make test` set up the same .venv, whichever comes first.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
LOCK := requirements/dev.lock

.PHONY: demo test test-slow check format mutants data paper bench browser assets clean

demo: $(READY)
	$(VENV)/bin/upweight demo --out .

test: $(READY)
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses 2

test-slow: $(READY)
	$(RUN) -m pytest -m "slow or not slow"

check: $(READY)
	$(RUN) -m ruff format --check src tests tools benchmarks examples
	$(RUN) -m ruff check src tests tools benchmarks examples
	$(RUN) -m pyright
	$(RUN) -m pytest tests/test_floors.py tests/test_equations.py -q
	$(RUN) -m pytest -q

format: $(READY)
	$(RUN) -m ruff format src tests tools benchmarks examples
	$(RUN) -m ruff check --fix src tests tools benchmarks examples

mutants: $(READY)
	$(RUN) tools/mutants.py

data: $(READY)
	$(RUN) tools/fetch_data.py
	PYTHONPATH=benchmarks $(RUN) benchmarks/transformer/problem.py

# The paper's experiments at full size: finished ones are not run again, nor finished refits of interrupted ones. Hours on two cores.
PAPER ?= $(sort $(notdir $(basename $(wildcard examples/paper/a*_*.py))))

paper: data
	set -e; for name in $(PAPER); do $(RUN) examples/paper/$$name.py --size full; done
	$(RUN) examples/paper/page.py

# A browser for the tests of the report's page; they are skipped where there is none.
browser:
	command -v chromium || (apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium)

assets: $(READY)
	$(RUN) tools/build_report_assets.py

PEERS := benchmarks/.peers
BERGSON := benchmarks/.bergson

bench: $(READY) $(PEERS)/.ready $(BERGSON)/.ready data
	$(RUN) benchmarks/run.py $(WORKLOADS)

$(PEERS)/.ready: benchmarks/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --requirement benchmarks/peers.txt
	touch $@

$(BERGSON)/.ready: benchmarks/bergson.txt
	$(PYTHON) -m venv $(BERGSON)
	$(BERGSON)/bin/python -m pip install --quiet --requirement benchmarks/bergson.txt
	touch $@

$(READY): pyproject.toml $(LOCK)
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --requirement $(LOCK)
	$(RUN) -m pip install --quiet --no-build-isolation --no-deps --editable .
	touch $(READY)

clean:
	rm -rf $(VENV) build .pytest_cache .ruff_cache report.html
