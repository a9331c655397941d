# `make test` sets up and runs all checks and tests; `make demo` sets up and runs the main job.
PYTHON ?= python3
PYTEST_ARGUMENTS ?= -n auto --dist loadfile --max-worker-restart 0
PATHS = scaleevent_ros training benchmarks test launch tools
IN = . ./env.sh &&

.PHONY: help setup test test-ros-machine lint format demo bench docs clean

help:
	@echo "make setup   create the environment .venv (also done by every other target)"
	@echo "make test    lint, types and all tests          PYTEST_ARGUMENTS='-m slow' for the long ones"
	@echo "make test-ros-machine   set-up, colcon and nodes on a stand-in for a machine with ROS 2"
	@echo "make demo    the whole journey: record, pretrain, perceive"
	@echo "make lint    ruff and mypy            make format   let ruff rewrite"
	@echo "make bench   every benchmark          make docs     build the documentation site"
	@echo "make clean   remove the environment and everything that was built"

setup:
	@$(PYTHON) tools/setup/setup_environment.py

lint: setup
	@$(IN) ruff format --check . && ruff check . && mypy $(PATHS)

format: setup
	@$(IN) ruff check --fix .; ruff format .

test: lint
	@$(IN) python -m pytest $(PYTEST_ARGUMENTS)

test-ros-machine: setup
	@$(IN) python -m pytest -m ros_machine test/test_ros_machine.py

demo: setup
	@$(IN) python -m tools.demo

bench: setup
	@$(IN) for script in benchmarks/*.py; do echo "== $$script"; python "$$script" || exit 1; done

docs: setup
	@$(IN) python tools/docs/write_reference.py && python -m mkdocs build --strict

clean:
	rm -rf .venv .venv.lock build install log site *.egg-info .mypy_cache .ruff_cache .pytest_cache
