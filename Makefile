# make demo   set-up, then the method on the embedded picture book: a table and a picture in demo/
# make test   set-up, then the tests
# make check  lint, formatting, types
# make stress  kills, signals, full disks, races, damaged files, odd inputs: COUNT of each; docs/robustness.md
# make ablations-gpu   the papers' mechanism and momentum studies on CIFAR-10, for one GPU; in parts, run it again
# make transfer-gpu RUN=... DATA=...  the paper's detection on VOC and COCO, for one GPU; in parts, run it again
# make speedrun DATA=...  accuracy against time and FLOPs, beside other libraries; `make speedrun-gpu` in parts, run it again
# make bench  throughput beside the bare encoder; `make bench-gpu` the same at the sizes of a GPU
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
# Set-up is done once for running (with what the demonstration draws with) and once more for developing.
RUNNABLE := $(VENV)/.runnable
INSTALLED := $(VENV)/.installed

.PHONY: demo test check stress bench bench-gpu ablations-gpu transfer-gpu speedrun speedrun-gpu clean

$(RUNNABLE): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit('Python 3.11 or newer is needed, this is ' + sys.version.split()[0] if sys.version_info < (3, 11) else 0)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(PIP) --editable ".[demo]"
	touch $@

$(INSTALLED): $(RUNNABLE)
	$(PIP) --editable ".[dev]"
	touch $@

demo: $(RUNNABLE)
	$(BIN)/python examples/demo.py --out demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -n auto --dist worksteal

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

COUNT ?= 100
SEED ?= 0
JOBS ?= 1
KINDS ?= kill event term disk race damage fuzz
stress: $(INSTALLED)
	$(BIN)/python -m stress --seed $(SEED) --count $(COUNT) --jobs $(JOBS) --kinds $(KINDS)

bench: $(INSTALLED)
	$(PIP) --editable ".[bench]"
	$(BIN)/python benchmarks/throughput.py --out benchmarks/results/throughput-cpu

# The machine's own Python, torch and extras: nothing is installed. About 8 minutes.
bench-gpu:
	PYTHONPATH=src $(PYTHON) benchmarks/gpu_suite.py

# The machine's own Python, torch and extras. Each call takes under 9 minutes and goes on where the last one stopped;
# exit code 3 means that there is more to do.
DATA ?= CIFAR10
ablations-gpu:
	PYTHONPATH=src $(PYTHON) benchmarks/ablations_gpu.py $(DATA)

# The machine's own Python, torch and extras. RUN: a ResNet-50's run folder; DATA: benchmarks/transfer_gpu.py says what lies
# there; TASKS: some of voc-c4-24k, coco-fpn-1x, coco-c4-2x. Each call takes under 9 minutes; exit code 3: more to do.
transfer-gpu:
	$(if $(and $(RUN),$(filter-out file,$(origin DATA))),,$(error RUN=... and DATA=... are needed))
	PYTHONPATH=src $(PYTHON) benchmarks/transfer_gpu.py $(RUN) $(DATA) $(if $(TASKS),--tasks $(TASKS)) $(OPTIONS)

# TRACK: cifar-cpu, imagenette-cpu; DATA: benchmarks/speedrun/README.md. What is there already is not run again.
speedrun: $(INSTALLED)
	$(PIP) --editable ".[bench]"
	$(BIN)/python -m benchmarks.speedrun $(or $(TRACK),cifar-cpu) $(DATA) $(OPTIONS)

# The machine's own Python, torch and extras. Each call takes under 9 minutes; exit code 3: there is more to do.
speedrun-gpu:
	PYTHONPATH=src:. $(PYTHON) -m benchmarks.speedrun $(or $(TRACK),cifar-gpu) $(DATA) --minutes 8.5 $(OPTIONS)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
