# Two commands for a newcomer: `make run` and `make test`. Everything else is for people who change Esper.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
STAMP := $(VENV)/.made-from-lock

.PHONY: setup run test full coverage lint type arch bench docs golden chaos fuzz mutate clean

setup: $(STAMP)

# Byte code is compiled once here, because every process of the stack imports it. uv installs the locked wheels side by side; it is itself locked, and installed by pip, which comes with Python.
$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) tools/check_python.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python tools/lock_entry.py uv > $(VENV)/uv.lock.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $(VENV)/uv.lock.txt
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --offline --no-deps --no-build-isolation --editable .
	touch $(STAMP)

run: setup
	$(BIN)/esper run mnist1d

test: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder

# The same, and the variants: claims on every model of the zoo, every starter, every way to stream data. About twice as long.
full: setup
	ESPER_VARIANTS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder

# Lines and branches that the tests reach, in their processes too: about twice as long as the tests alone.
coverage: setup
	rm -rf .esper/coverage && mkdir -p .esper/coverage
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered --sort=cover

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: setup
	$(BIN)/mypy

arch: setup
	$(BIN)/lint-imports

golden: setup
	$(BIN)/python tools/generate_events.py --check
	$(BIN)/python -m pytest tests/golden

bench: setup
	$(BIN)/esper bench

# The documentation as a site, in .esper/docs/html: the pages of this repository, and a reference that the code writes.
docs: setup
	$(BIN)/python -m tools.build_docs

# Which changes of the pure core no test notices: all of them, or `make mutate MUTANTS='esper.events.codec*'`. It works on a copy.
mutate: setup
	rm -rf .esper/mutation
	mkdir -p .esper/mutation
	cp -r esper processors schemas tests tools pyproject.toml .esper/mutation
	cd .esper/mutation && nice -n 10 $(CURDIR)/$(BIN)/mutmut run --max-children $(WORKERS) $(MUTANTS)
	cd .esper/mutation && $(CURDIR)/$(BIN)/mutmut results

# Kills by the hundred; what came of them is a line of JSON in tests/chaos/reports. ESPER_CHAOS_SEED chooses whom and when. Then the laws, with ten times the examples.
chaos: setup
	ESPER_CHAOS_KILLS=$${ESPER_CHAOS_KILLS:-200} ESPER_CHAOS_TRIPLES=$${ESPER_CHAOS_TRIPLES:-200} ESPER_CHAOS_REPORT=$${ESPER_CHAOS_REPORT:-tests/chaos/reports} \
		ESPER_CHAOS_CLUSTER=$${ESPER_CHAOS_CLUSTER:-5} ESPER_VARIANTS=1 $(BIN)/python -m pytest tests/chaos $(wildcard tests/clusters)
	ESPER_EXAMPLES=$${ESPER_EXAMPLES:-10} $(BIN)/python -m pytest tests/property

# Attacks and malformed input at full length; ESPER_FUZZ says how many cases of each, ESPER_FUZZ_SEED which.
fuzz: setup
	ESPER_FUZZ=$${ESPER_FUZZ:-100000} $(BIN)/python -m pytest $(wildcard tests/fuzz tests/attacks)

clean:
	rm -rf $(VENV) .esper .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage build dist
