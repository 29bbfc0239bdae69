# make demo | make test | make lint: each creates .venv and installs what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow lint format lock clean

$(VENV)/installed: pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint requirements.lock -e '.[dev]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/python -m jobs demo $(ARGS)

test: $(VENV)/installed
	$(BIN)/python -m pytest -m 'not slow' $(ARGS)

test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Exact versions without addresses, from the environment as it stands.
lock: $(VENV)/installed
	$(BIN)/python -m pip freeze --exclude-editable --exclude cutler | grep -v '@' > requirements.lock

clean:
	rm -rf $(VENV) runs
