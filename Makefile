# make reproduce: sets up, then every table at demo scale     make test: sets up, then all tests
# make lab: JupyterLab                                        make, make venv: only sets up .venv
# make test-browser: the playground in a real browser; needs Chromium (apt install chromium), not part of `make test`
# SCALE=paper DATA=/path/to/data SEEDS=5: on the papers' own data sets, with more seeds
# PYTHON=python3.12: made with this Python, 3.11 to 3.13
# CORES=8: eight rows or tests at a time
SCALE ?= demo
SEEDS ?= 1
CORES ?= 2
GPUS := $(shell nvidia-smi -L 2>/dev/null | grep -c GPU)
PYTHON ?= python3
export DATA
export OMP_WAIT_POLICY ?= PASSIVE
# keep memory that torch frees within the process: page faults took a tenth of the training time
export MALLOC_MMAP_THRESHOLD_ ?= 1073741824
export MALLOC_TRIM_THRESHOLD_ ?= 2147483648
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export TQDM_DISABLE ?= $(if $(MAKE_TERMOUT),,1)

.PHONY: venv reproduce test test-browser lab clean

venv: .venv/.done
	@echo "ready; once a shell:  . .venv/bin/activate  puts this environment's python, papermill and jupyter on the path"

.venv/.done: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; (3, 11) <= v < (3, 14) or \
		sys.exit("Python: got %d.%d, expected 3.11 to 3.13: give another, make PYTHON=python3.12" % v[:2])'
	@.venv/bin/python -c "import pip, sys; sys.exit('$$($(PYTHON) -V)' != 'Python %d.%d.%d' % sys.version_info[:3])" \
		2>/dev/null || $(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install --quiet -r requirements.lock
	.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

reproduce: .venv/.done
	python -m iqa_lib.lab.reproduce $(SCALE) --seeds $(SEEDS) --cores $(CORES) --gpus $(GPUS) \
		$(if $(DATA),--data "$$DATA")

test: .venv/.done
	ruff check .
	ruff format --check .
	pytest -n $(CORES) --dist worksteal
	OMP_NUM_THREADS=1 pytest --nbval notebooks -n $(CORES) --dist loadfile

.venv-browser/.done: Makefile
	test -x .venv-browser/bin/python || $(PYTHON) -m venv .venv-browser
	.venv-browser/bin/python -m pip install --quiet 'playwright>=1.50'
	touch $@

test-browser: .venv/.done .venv-browser/.done
	.venv-browser/bin/python tests/browser/playground.py

lab: .venv/.done
	jupyter lab

clean:
	rm -rf outputs/* .snakemake
