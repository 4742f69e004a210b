# make run · make test · make lint · make docs · make bench · make leaderboard
# Each sets up .venv first when it is missing or out of date: torch (pinned) before anything else, so that nothing that
# comes later chooses another one, then the requirements, then this package with its optional native library.

PYTHON ?= python3
VENV ?= .venv
TORCH_VERSION := 2.13.0
TORCH := torch==$(TORCH_VERSION)
BUILD_TOOLS := 'setuptools>=70.1'
REQUIREMENTS := requirements/requirements.txt requirements/nerfacc.txt requirements/onnxruntime.txt requirements/vsd.txt requirements/assets.txt requirements/usd.txt requirements/sweep.txt requirements/submitit.txt requirements/viewer.txt requirements/triton.txt requirements/test.txt requirements/docs.txt

# make run PROMPT='a duck' RUNS=elsewhere ARGS='trainer.max_steps=50'
# make run REFINE=1 ARGS='trainer.max_steps=500' REFINE_ARGS='trainer.max_steps=100'
PROMPT ?=
RUNS ?= results
REFINE ?=
ARGS ?=
REFINE_ARGS ?=
REFINES := $(filter-out 0 no off false,$(REFINE))
# As they were given: make would take a $ in them for a variable of its own, or for a command to run.
export PROMPT_RAW := $(value PROMPT)
export RUNS_RAW := $(value RUNS)

PY := $(VENV)/bin/python
LOG := $(VENV)/install.log
PIP := $(PY) -m pip install --no-input --disable-pip-version-check
NATIVE_SOURCES := $(wildcard nemo_dreamfusion/ops/backends/csrc/*)

unexport PROMPT RUNS
.DELETE_ON_ERROR:
.PHONY: help setup run test lint docs bench leaderboard

help:
	@echo "make run     text to 3-D with the embedded model: make run PROMPT='a duck' ARGS='trainer.max_steps=50'"
	@echo "             into results/<prompt>-<hash>/, or RUNS=<folder>/...; half a minute to two on 2 cores; the first time"
	@echo "             two minutes or more to install torch and the rest into .venv"
	@echo "             REFINE=1 refines it as a mesh, into results/refined/<prompt>-<hash>/; REFINE_ARGS are that stage's own"
	@echo "make test    every test and docstring example, and what they cover: make test ARGS='tests/ops -x'"
	@echo "make lint    style, format, types, licence headers, dependency check"
	@echo "make docs    the documentation site, into build/docs"
	@echo "make bench   ratios against the torch reference and the installed peers"
	@echo "make leaderboard  every recipe on objects whose true shape is known, into results/leaderboard; many hours, and it goes"
	@echo "             on where it was stopped: make leaderboard ARGS='suite=suite12 only=[sds,csd] seeds=[1]'"

# $(call step,what is being done,command): one line on the screen, everything else in the log; a stamp is written by the
# caller and only after success.
define step
	@printf '%s ... ' '$(1)'; \
	if ( $(2) ) >>$(LOG) 2>&1; then echo 'done'; else \
	  echo 'FAILED'; tail -n 15 $(LOG); \
	  echo 'The whole log is $(LOG). Nothing was marked as installed: run make again when the cause is gone.'; exit 1; fi
endef

$(VENV)/.stamp-venv:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
	  echo 'This needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is another: use make PYTHON=/path/to/python3.11 ...'; exit 1; }
	@mkdir -p $(VENV)
	$(call step,[1/4] virtual environment in $(VENV),$(PYTHON) -m venv $(VENV) && $(PY) -m pip --version)
	@touch $@

$(VENV)/.stamp-torch-$(TORCH_VERSION): $(VENV)/.stamp-venv
	$(call step,[2/4] $(TORCH),$(PIP) $(TORCH))
	@echo '$(TORCH)' > $(VENV)/torch.txt
	@touch $@

# open_clip_torch without its dependencies: one file of it is read, and torchvision would not fit torch for the CPU
$(VENV)/.stamp-requirements: $(VENV)/.stamp-torch-$(TORCH_VERSION) $(REQUIREMENTS) requirements/open_clip.txt
	$(call step,[3/4] requirements (some minutes the first time),$(PIP) -c $(VENV)/torch.txt $(BUILD_TOOLS) $(addprefix -r ,$(REQUIREMENTS)) && $(PIP) --no-deps -r requirements/open_clip.txt)
	@touch $@

$(VENV)/.stamp-package: $(VENV)/.stamp-requirements setup.py pyproject.toml nemo_dreamfusion/package_info.py $(NATIVE_SOURCES)
	$(call step,[4/4] nemo_dreamfusion and its native library,$(PIP) --no-build-isolation --no-deps -e .)
	@if ls nemo_dreamfusion/ops/backends/csrc/*.cpp >/dev/null 2>&1 && ! ls nemo_dreamfusion/ops/backends/_native.so >/dev/null 2>&1; then \
	  echo 'WARNING: the native CPU library was not built (is there a C++ compiler?); the slower torch reference is used.'; fi
	@touch $@

setup: $(VENV)/.stamp-package

# The shell splits ARGS into words; PROMPT and RUNS are quoted for Hydra, whatever they hold.
QUOTED := $(PY) -c 'import os, sys; from nemo_dreamfusion.launch.prompts_file import quoted; print(quoted(os.environ[sys.argv[1]]))'

run: setup
	@touch $(VENV)/.run-started
	@set -- --config-name dreamfusion "exp_manager.exp_dir=$$($(QUOTED) RUNS_RAW)"; \
	if [ -n "$$PROMPT_RAW" ]; then set -- "$$@" "model.prompt=$$($(QUOTED) PROMPT_RAW)"; fi; \
	if [ -z "$(REFINES)" ]; then $(PY) examples/dreamfusion.py "$$@" $(ARGS); else \
	  said=$(VENV)/.run-said; \
	  { $(PY) examples/dreamfusion.py "$$@" $(ARGS); echo $$? >$$said.code; } | tee $$said; \
	  code=$$(cat $$said.code); [ "$$code" = 0 ] || exit "$$code"; \
	  folder=$$(sed -n 's/^Done: //p; s/^Finished before: \(.*\); remove it.*/\1/p' $$said); \
	  [ -n "$$folder" ] || { echo 'REFINE=1: the first stage named no folder to go on from.' >&2; exit 1; }; \
	  RUNS_RAW="$$RUNS_RAW/refined" REFINED="$$folder/DreamFusion.nemo"; export RUNS_RAW REFINED; \
	  set -- --config-name dreamfusion-dmtet "exp_manager.exp_dir=$$($(QUOTED) RUNS_RAW)" "restore_from_path=$$($(QUOTED) REFINED)"; \
	  if [ -n "$$PROMPT_RAW" ]; then set -- "$$@" "model.prompt=$$($(QUOTED) PROMPT_RAW)"; fi; \
	  $(PY) examples/dreamfusion.py "$$@" $(REFINE_ARGS); fi
	@echo; echo 'The results are in:'; \
	found=$$(find "$$RUNS_RAW" -mindepth 2 -maxdepth 3 -name preview.png -newer $(VENV)/.run-started 2>/dev/null); \
	if [ -n "$$found" ]; then printf '%s\n' "$$found" | while read -r file; do \
	  ls -d "$${file%/*}"/* | sed 's/^/  /'; done; else printf '  %s\n' "$$RUNS_RAW"; fi

# Three processes of one thread each, on two cores: most tests are too small for a second thread, and many wait.
test: setup
	@OMP_NUM_THREADS=1 COVERAGE=1 $(PY) -m pytest -n 3 --dist loadfile --no-loadscope-reorder --doctest-modules -ra --durations=20 $(ARGS)

# pip check is the dependency audit: it needs no service on the network. An advisory scanner would. What open_clip_torch lacks
# is left out on purpose (see above).
lint: setup
	@echo 'style';   $(PY) -m ruff check .
	@echo 'format';  $(PY) -m ruff format --check .
	@echo 'types';   $(PY) -m mypy
	@echo 'headers'; $(PY) -m pytest -q tests/test_architecture.py -k header
	@echo 'dependencies'; ! $(PY) -m pip check | grep -v -e '^No broken' -e '^open-clip-torch .* requires .* not installed'

docs: setup
	@rm -rf docs/api
	@$(PY) -m sphinx -W --keep-going -q -b html docs build/docs
	@echo 'Done: build/docs/index.html'

bench: setup
	@if [ ! -f benchmarks/run.py ]; then echo 'make bench: there is no benchmarks/run.py in this checkout yet.'; exit 1; fi
	@$(PY) benchmarks/run.py $(ARGS)

leaderboard: setup
	@$(PY) examples/bench.py out=results/leaderboard $(ARGS)
