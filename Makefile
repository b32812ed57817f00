# A machine with Python >= 3.11 and make is enough: every target sets .venv up first, once.
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(os.cpu_count() + 2)') # two more than cores: tests often wait
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal
INSTALLED := .venv/.installed

# compiled modules and tests are kept, also where Python is told not to: each process of the tests would compile them again
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test coverage slow soak check wheel docs pictures bench lock clean
.DELETE_ON_ERROR:

demo: $(INSTALLED)
	$(BIN)/python train.py data=demo backbone=efficientnet_lite0 trainer=local \
		trainer.max_epochs=5 optimizer.lr=0.01

test: $(INSTALLED)
	$(PYTEST) -m "not slow and not soak"

coverage: $(INSTALLED) # a report only; it takes 1.6 times as long as make test, so it is not part of it
	$(PYTEST) -m "not slow and not soak" --cov --cov-report=term:skip-covered

slow: $(INSTALLED)
	$(PYTEST) -m "slow and not soak"

soak: $(INSTALLED)
	$(BIN)/python -m pytest -m soak

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python .ci/sizes.py
	$(BIN)/python .ci/english.py

wheel: $(INSTALLED)
	$(BIN)/python -m pytest -m "" tests/e2e/test_wheel.py

docs: $(INSTALLED)
	$(BIN)/python docs/scripts/configuration.py
	$(BIN)/python docs/scripts/rules.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir .site
	@echo "open .site/index.html"

pictures: $(INSTALLED)
	$(BIN)/python docs/scripts/pictures.py
	$(BIN)/python docs/scripts/notebooks.py

bench: $(INSTALLED)
	$(BIN)/python benchmarks/all.py

lock: $(INSTALLED)
	$(BIN)/uv pip compile pyproject.toml $(LOCK_FLAGS) --all-extras --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-annotate --custom-compile-command "make lock" --output-file requirements.lock

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache

$(INSTALLED): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Sagehound needs Python >= 3.11, this is " + sys.version + ": make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(sed -n 's/^\(uv==[^ ]*\).*/\1/p' requirements.lock)"
	$(BIN)/uv pip sync --quiet --require-hashes --compile-bytecode --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --no-deps --python $(BIN)/python --editable .
	touch $@

# an environment with SageMaker's SDK 2, whose programs the tests of the emulator run
.venv-sdk2/.installed: $(INSTALLED)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-sdk2
	$(BIN)/uv pip install --quiet --python .venv-sdk2/bin/python "sagemaker==2.257.7" numpy pip
	touch $@
