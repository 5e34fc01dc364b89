# The course's commands. `make` alone lists them.
#
#   PYTHON=python3.12   the Python to make .venv with (else the first new enough one on PATH)
#   PORT=9000           the port of JupyterLab (else 8888 or the next free one), or of a class (else 8000)
#   LOCALE=zh_CN        JupyterLab's own menus and dialogs in Chinese
#   LEARNERS=20         how many learners a class has, or their names (else 8)
#
# Plain make and sh (GNU Make 3.81, as on macOS, is enough). Every path is relative, so the checkout
# can be anywhere. Anything longer than a line is a program in tools/.

PYTHON ?=
PORT ?=
LOCALE ?=
LEARNERS ?=
VENV_PYTHON = .venv/bin/python
FIND_PYTHON = python=$$(sh tools/find_python.sh "$(PYTHON)")
MAKE_ENV = $(FIND_PYTHON) && "$$python" tools/make_env.py

.DEFAULT_GOAL := help
.PHONY: help lab class test setup check proof bench coverage notebooks site pictures record pins clean

help: ## list these commands
	@awk -F ' *:.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

lab: ## install what is needed, then open JupyterLab on the first lesson
	@$(MAKE_ENV) lab$(if $(filter zh%,$(LOCALE)), zh)
	@$(VENV_PYTHON) tools/lab.py$(if $(PORT), --port "$(PORT)")$(if $(LOCALE), --locale "$(LOCALE)")

class: ## install what is needed, then start JupyterHub for a class on this machine
	@$(MAKE_ENV) lab hub
	@$(VENV_PYTHON) tools/classroom.py $(if $(PORT),--port "$(PORT)") $(if $(LEARNERS),--learners "$(LEARNERS)")

test: setup ## install what is needed, then run all checks and tests
	@$(VENV_PYTHON) tools/run.py test

setup: ## install into .venv what lessons and tests need, unless it is there
	@$(MAKE_ENV) lab zh hub site test

check: setup ## the part that takes seconds: ruff, types, imports, and the stored notebooks
	@$(VENV_PYTHON) tools/run.py check

proof: setup ## the tests' repetitions and exhaustive sweeps (takes up to 25 minutes)
	@$(VENV_PYTHON) tools/run.py proof

bench: setup ## measure: every tests/benchmarks/bench_*.py (takes hours)
	@$(VENV_PYTHON) tools/make_env.py bench
	@$(VENV_PYTHON) tools/run.py bench

coverage: setup ## list the lines that no quick test runs
	@$(VENV_PYTHON) tools/run.py coverage

notebooks: setup ## run every lesson, store its outputs, and update README and the question index
	@$(VENV_PYTHON) tools/notebooks.py notebooks
	@$(VENV_PYTHON) tools/index.py

site: ## make the pages of the lessons from what is stored, in build/site
	@$(MAKE_ENV) site
	@$(VENV_PYTHON) tools/pages.py

pictures: setup ## photograph the lab and the card that README shows (needs Chromium or Chrome)
	@$(VENV_PYTHON) tools/photograph.py

record: setup ## train the recorded sweep of the small CNN again (takes minutes)
	@$(VENV_PYTHON) tools/record_sweep.py

pins: setup ## write constraints.txt again, with the newest releases
	@$(VENV_PYTHON) tools/pin.py

clean: ## delete what these commands made; a learner's own files stay
	rm -rf .venv .venv-bench build artifacts .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .coverage
	rm -rf training_loop_course.egg-info loop-doctor/src/loop_doctor.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -prune -exec rm -rf {} +
