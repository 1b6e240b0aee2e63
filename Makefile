# Each target does its own set-up in .venv; a second run skips it until a requirement file changes.

PYTHON ?= python3
VENV   ?= .venv

# torch goes in first, and by itself, because which build is wanted depends on the machine. An exact
# version lets pip take a CPU build (2.13.0+cpu) wherever pip can see one; an open range would take
# the newest release instead, on Linux with several GB of CUDA packages. Another choice:
#     make clean && make test TORCH=torch==2.4.0
TORCH ?= torch==2.13.0

# Where the stages of a training leave what they made, so that the next start goes on from there.
RUN ?= runs/nano

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: demo nano test test-quick test-slow test-core test-host lint bench gpu-check format clean help

help:
	@echo "make demo    all three tasks on sample pictures -> output/demo/contact_sheet.png"
	@echo "make test    the test suite but what is slow       (PYTEST_ARGS='-k roles' to choose)"
	@echo "             with a ComfyUI at \$$COMFYUI_PATH or ~/ComfyUI: the nodes in it too"
	@echo "make test-slow   what is slow: training, full sizes, ComfyUI's servers, its page in a browser"
	@echo "make test-quick  what is quick and needs no ComfyUI: for every change"
	@echo "make test-core   all that needs no ComfyUI;  make test-host  all that needs one"
	@echo "make nano    jodi-nano from nothing, with a report card -> output/nano  (MINUTES=M, RUN=DIR)"
	@echo "make lint    ruff and pyright                      (make format repairs what ruff can)"
	@echo "make bench   ours against a plain baseline         (BENCH_JSON=FILE keeps the figures)"
	@echo "make gpu-check   tests, kernels and requests on a GPU in 4 minutes  (BUDGET=SECONDS, JSON=FILE)"
	@echo "make clean   remove $(VENV)"
	@echo "variables    PYTHON=$(PYTHON)  TORCH=$(TORCH)  VENV=$(VENV)"

demo: $(VENV)/.runtime
	@$(BIN)/jodi demo

nano: $(VENV)/.runtime
	@$(BIN)/jodi train nano --run "$(RUN)" --force $(if $(MINUTES),--minutes $(MINUTES))

# Every folder of tests belongs to one of these, so that a new one is never left out.
HOST_TESTS := tests/nodes tests/host tests/browser
CORE_TESTS := $(filter-out $(HOST_TESTS),$(patsubst %/,%,$(wildcard tests/*/))) $(wildcard tests/test_*.py)
CORE_TESTS := $(filter-out tests/__pycache__,$(CORE_TESTS))

# Quick ones first. Without a ComfyUI those that need one are skipped, with the reason.
test: $(VENV)/.test
	@$(BIN)/pytest -m "not slow" $(CORE_TESTS) $(HOST_TESTS) $(PYTEST_ARGS)

test-slow: $(VENV)/.test
	@$(BIN)/pytest -m slow $(CORE_TESTS) $(HOST_TESTS) $(PYTEST_ARGS)

# Neither what is long, kernels in an interpreter nor the benchmarks. Two
# processes of one thread each: small operations gain nothing by a second thread.
QUICK_TESTS := $(filter-out tests/benchmarks,$(CORE_TESTS))

test-quick: $(VENV)/.test
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m "not slow and not long and not interpreted" \
	  $(QUICK_TESTS) $(PYTEST_ARGS)

test-core: $(VENV)/.test
	@$(BIN)/pytest $(CORE_TESTS) $(PYTEST_ARGS)

test-host: $(VENV)/.test
	@$(BIN)/pytest $(HOST_TESTS) $(PYTEST_ARGS)

lint: $(VENV)/.lint
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.lint
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# BUDGET in seconds; JSON=FILE keeps the figures. Without a GPU: the same steps, tiny, as a dry run.
BUDGET ?= 240
gpu-check: $(VENV)/.test
	@$(BIN)/jodi bench gpu-check --budget "$$($(BIN)/python -c 'print($(BUDGET) / 60)')" $(if $(JSON),--json "$(JSON)")

bench: $(VENV)/.runtime
	@$(BIN)/jodi bench $(if $(BENCH_JSON),--json "$(BENCH_JSON)")

clean:
	rm -rf "$(VENV)"

# The stamps are written last, so that a set-up that was interrupted is taken up again.
$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "Python 3.10 or newer is needed, $(PYTHON) is older or missing; name one: make PYTHON=python3.12" >&2; \
	  exit 1; }
	@$(PYTHON) -m venv "$(VENV)" || { \
	  echo "$(PYTHON) could not make $(VENV); on Debian and Ubuntu: apt-get install python3-venv" >&2; \
	  exit 1; }
	$(PIP) install "$(TORCH)" || echo "$(TORCH) is not to be had here; taking what requirements.txt allows"
	@touch $@

$(VENV)/.runtime: $(VENV)/.torch requirements.txt pyproject.toml
	$(PIP) install --quiet -r requirements.txt -e .
	@touch $@

$(VENV)/.test: $(VENV)/.torch requirements.txt requirements-test.txt pyproject.toml
	$(PIP) install --quiet -r requirements-test.txt
	@touch $@

$(VENV)/.lint: $(VENV)/.torch requirements.txt requirements-lint.txt pyproject.toml
	$(PIP) install --quiet -r requirements-lint.txt
	@touch $@
