# make reproduce: sets up, then every table at demo scale     make test: sets up, then all tests
# make lab: JupyterLab                                        make, make venv: only sets up .venv
# make gpu: eight minutes on one GPU: right, how fast; into benchmarks/gpu.json and docs/gpu.md
# make test-browser: the playground in a real browser; needs Chromium (apt install chromium), not part of `make test`
# make data DATA=/path/to/data SETS="kadid10k bapps" ACCEPT=yes: fetches data sets; without ACCEPT only their terms and sizes
# make plan SCALE=paper DATA=/path/to/data: what each row needs, what is there, GPU hours; starts nothing
# SCALE=paper DATA=/path/to/data SEEDS=5: on the papers' own data sets, with more seeds
# PYTHON=python3.12: made with this Python, 3.11 to 3.13
# CORES=8: eight rows or tests at a time
SCALE ?= demo
SEEDS ?= 1
SETS ?= clic bapps pieapp pipal kadid10k tid2013 live csiq
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

.PHONY: venv reproduce data plan test test-browser lab gpu clean

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

plan: .venv/.done
	python -m iqa_lib.lab.schedule $(SCALE) $(if $(DATA),--data "$$DATA")

data: .venv/.done
	status=0; for name in $(SETS); do \
		python -m iqa_lib.data fetch $$name "$${DATA:-data}/$$name" $(if $(ACCEPT),--accept-terms) || status=1; \
	done; exit $$status

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

gpu: .venv/.done
	python benchmarks/gpu.py

clean:
	rm -rf $(filter-out outputs/records,$(wildcard outputs/*)) .snakemake
