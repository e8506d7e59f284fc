# Everything runs in .venv, which the first target that needs it creates.
PYTHON ?= python3
RUN := .venv/bin/python -m

.DEFAULT_GOAL := help
.PHONY: help install demo table2 docs notebooks test test-slow soak benchmarks lint types format tensorboard clean

help: ## show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: .venv/installed ## create .venv and install the project with its tools

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(RUN) pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install ## train on generated images and show the results (no GPU, no data set)
	$(RUN) alu_defects.train experiment=quickstart

table2: install ## train the paper's four networks from three seeds and compare them; ARGS="data=tianchi data.root=<dir>"
	$(RUN) alu_defects.train -m sweep=table2 $(ARGS)

docs: install ## build the documentation into site/
	.venv/bin/python docs/build.py

notebooks: install ## execute the notebooks
	$(RUN) pytest --numprocesses 2 --nbmake notebooks

test: install ## run the fast tests
	$(RUN) pytest --numprocesses 2 --dist worksteal

test-slow: install ## run the tests that need minutes
	$(RUN) pytest --numprocesses 2 -m slow

soak: install ## kill trainings and stations at random moments, and repeat others until leaks would show
	$(RUN) pytest --numprocesses 2 -m soak

benchmarks: install ## run every benchmark at small sizes, some minutes; docs/performance.md has the commands at full size
	$(RUN) alu_defects.benchmark what=train model=shufflenet image_sizes=[64] repeats=2 seconds=0.5
	$(RUN) alu_defects.benchmark what=infer model=shufflenet image_sizes=[64] batch_sizes=[1,8] repeats=2 seconds=0.2
	.venv/bin/python benchmarks/data_path.py --images 64 --repeats 2 --seconds 0.2
	.venv/bin/python benchmarks/scale.py --rows 1000 10000 --repeats 1
	.venv/bin/python benchmarks/busy_machine.py --rounds 1 --models shufflenet

lint: install ## check style
	$(RUN) ruff check .
	$(RUN) ruff format --check .

types: install ## check types
	$(RUN) mypy

format: install ## fix style
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

tensorboard: install ## show all runs in a browser
	.venv/bin/tensorboard --logdir runs

clean: ## remove .venv and caches; runs stay
	rm -rf .venv build dist site docs/reference .cache .mypy_cache .ruff_cache .pytest_cache *.egg-info
