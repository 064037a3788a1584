# Every command of the project. `make demo` and `make test` set up the same .venv, whichever comes first.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
LOCK := requirements/dev.lock

.PHONY: demo test test-slow check format docs mutants rivals people data paper bench quality browser assets clean

demo: $(READY)
	$(VENV)/bin/upweight demo --out .

test: $(READY)
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses 2

test-slow: $(READY)
	$(RUN) -m pytest -m "slow or not slow"

check: $(READY)
	$(RUN) -m ruff format --check src tests tools benchmarks examples docs
	$(RUN) -m ruff check src tests tools benchmarks examples docs
	$(RUN) -m pyright
	$(RUN) -m pytest tests/test_floors.py tests/test_equations.py -q
	$(RUN) -m pytest -q

format: $(READY)
	$(RUN) -m ruff format src tests tools benchmarks examples docs
	$(RUN) -m ruff check --fix src tests tools benchmarks examples docs

# The site, in docs/_build/index.html; a warning fails it.
docs: $(READY)
	$(RUN) -m sphinx -W --keep-going -q -b html docs docs/_build

mutants: $(READY)
	$(RUN) tools/mutants.py

data: $(READY)
	$(RUN) tools/fetch_data.py

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
	PYTHONPATH=benchmarks $(RUN) benchmarks/transformer/problem.py
	$(RUN) benchmarks/run.py $(WORKLOADS)

# What other libraries do with one small problem, and what they offer: the tables of docs/rivals.md.
RIVALS := dattri captum pyDVL kronfluence
RIVAL := benchmarks/rivals
rivals: $(READY) $(PEERS)/.ready
	export PYTHONPATH=benchmarks:$(RIVAL) && $(RUN) $(RIVAL)/probe.py upweight > $(RIVAL)/probe.jsonl && \
	for name in $(RIVALS); do $(PEERS)/bin/python $(RIVAL)/probe.py $$name >> $(RIVAL)/probe.jsonl || exit 1; done && \
	$(RUN) $(RIVAL)/features.py upweight > $(RIVAL)/features.jsonl && \
	$(PEERS)/bin/python $(RIVAL)/features.py $(RIVALS) >> $(RIVAL)/features.jsonl
	$(RUN) benchmarks/tables.py

# How large and fast the report's page is, and the statistician's questions at 100,000 rows: tables of docs/report.md and docs/statistics.md.
people: $(READY) browser
	$(RUN) benchmarks/report_page.py > benchmarks/report_page.jsonl
	$(RUN) benchmarks/desk.py > benchmarks/desk.jsonl
	$(RUN) benchmarks/tables.py
# LDS of every method and of the peers: truths are part of the repository, models and scores are made anew where they are missing.
SETTINGS ?= concrete fashion2k reviews mnist2k
SUBSETS ?= 100
SEEDS ?= 2

quality: $(READY) $(PEERS)/.ready data
	for setting in $(SETTINGS); do \
		PYTHONPATH=benchmarks OMP_NUM_THREADS=1 $(RUN) benchmarks/quality/truth.py $$setting $(SUBSETS) $(SEEDS) && \
		PYTHONPATH=benchmarks OMP_NUM_THREADS=1 $(RUN) benchmarks/quality/ours.py $$setting 30 && \
		PYTHONPATH=benchmarks OMP_NUM_THREADS=1 $(PEERS)/bin/python benchmarks/quality/peers.py $$setting 3 || exit 1; \
	done
	PYTHONPATH=benchmarks OMP_NUM_THREADS=1 $(RUN) benchmarks/quality/responses.py
	PYTHONPATH=benchmarks $(RUN) benchmarks/quality/score.py $(SETTINGS)
	PYTHONPATH=benchmarks $(RUN) benchmarks/quality/page.py

$(PEERS)/.ready: benchmarks/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --requirement benchmarks/peers.txt
	touch $@

$(BERGSON)/.ready: benchmarks/bergson.txt
	$(PYTHON) -m venv $(BERGSON)
	$(BERGSON)/bin/python -m pip install --quiet --requirement benchmarks/bergson.txt
	$(BERGSON)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio  # built for CUDA, they do not load beside a torch for the CPU
	touch $@

$(READY): pyproject.toml $(LOCK)
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --requirement $(LOCK)
	$(RUN) -m pip install --quiet --no-build-isolation --no-deps --editable .
	touch $(READY)

clean:
	rm -rf $(VENV) build .pytest_cache .ruff_cache report.html docs/_build docs/api docs/examples
