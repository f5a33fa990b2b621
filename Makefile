PROFILE ?= embedded
PARAMS ?=
PYTHON ?= python3
EXTRAS ?=
VENV := .venv
PY := $(VENV)/bin/python
# In the shell's place: a shell between would take a signal and not hand it on.
RUN := exec $(PY)
READY := $(VENV)/.ready
VALIDATOR := .venv-validator

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONHASHSEED := 0
# Handed on through the environment, so that no character in them is the shell's.
export PROFILE NAME A B FILE ONLY

.DEFAULT_GOAL := help
.PHONY: help report playground dry-run test lab redraw figure pack unpack why verify diff bench bench-kernels bench-workers gpu-session profile embedded-model judge-model reasoner scale recovery coverage heads torture new-notebook clean-cache clean lint lock env crate-validator metadata FORCE

help: ## this help
	@echo 'make TARGET [PROFILE=embedded] [PARAMS="-p key value …"]'
	@echo
	@awk -F ' *## *' '/^[a-zA-Z\/%-]+:.*## /{split($$1, t, ":"); printf "  %-18s %s\n", t[1], $$2}' Makefile
	@echo
	@printf '  profiles:          '; ls params | sed 's/\.yaml$$//' | tr '\n' ' '; echo

report: $(READY) ## run what has to run, then assemble build/PROFILE/report/
	@$(RUN) -m lib.pipeline report --profile="$$PROFILE" $(PARAMS)

playground: $(READY) ## the embedded model in a page of its own, which the report then links to
	@$(RUN) -m report.playground --model models/embedded --out build/embedded/report/playground.html
	@test ! -d build/embedded/notebooks || $(RUN) -m lib.pipeline redraw

notebooks/%: $(READY) FORCE ## run one notebook and what it needs: make notebooks/V4
	@$(RUN) -m lib.pipeline run "$(basename $*)" --profile="$$PROFILE" $(PARAMS)

dry-run: $(READY) ## say what `make report` would run, and why
	@$(RUN) -m lib.pipeline dry-run --profile="$$PROFILE" $(PARAMS)

test: $(READY) ## the tests (JOBS=2: as many files at once)
	@$(RUN) -m pytest $(if $(JOBS),-n $(JOBS) --dist loadfile)

lab: $(READY) ## JupyterLab on the notebooks
	@cd notebooks && exec ../$(PY) -m jupyterlab

verify: $(READY) ## the scorecard: published figures against measured ones; fails on a miss
	@$(RUN) -m lib.claims.scorecard "$$PROFILE"

redraw: $(READY) ## draw text, figures and report again from the results that stand; measures nothing
	@$(RUN) -m lib.pipeline redraw --profile="$$PROFILE"

figure: $(READY) ## one figure again, its PNG in both languages: make figure NAME=ladder
	@$(RUN) -m lib.pipeline.figure --profile="$$PROFILE" $(PARAMS) -- "$$NAME"

pack: $(READY) ## results, figures, notebooks, report and scores in one checked file: build/packs/
	@$(RUN) -m lib.travel pack "$$PROFILE"

unpack: $(READY) ## check a pack, put it under build/: make unpack FILE=build/packs/….zip
	@$(RUN) -m lib.travel unpack "$$FILE"

why: $(READY) ## which input made two runs or packs differ, and what it moved: make why A=… B=…
	@$(RUN) -m lib.travel why $(if $(A),"$$A") $(if $(B),"$$B")

diff: $(READY) ## compare two runs' or packs' numbers and claims: make diff A=embedded B=gpt2
	@$(RUN) -m lib.results.diff -- $(if $(A),"$$A") $(if $(B),"$$B")

bench: $(READY) ## the engine against the published method, side by side; build/bench/engine.json
	@$(RUN) -m lib.timing.engine_bench --out build/bench/engine.json

bench-kernels: $(READY) ## the kernels against PyTorch's own, side by side; build/bench/kernels.json
	@$(RUN) -m lib.timing.kernel_bench --out build/bench/kernels.json

bench-workers: $(READY) ## two processes of one thread each against one; build/bench/workers.json
	@$(RUN) -m lib.timing.workers_bench --out build/bench/workers.json

gpu-session: ## on a machine with a CUDA GPU and its own PyTorch: checks, tuning, bench, GPT-2's shape, training, targets
	@exec $(PYTHON) -m lib.timing.gpu_session

embedded-model: $(READY) ## train the embedded model again (about an hour on 2 cores)
	@$(RUN) -m lib.pipeline train $(PARAMS)

judge-model: $(READY) ## train P3's second judge again (a quarter of an hour on 2 cores)
	@$(RUN) -m lib.pipeline train -p role judge -p n_embd 84 -p n_layer 6 -p n_head 6 -p seed 11 -p weights float16 \
	  -p tokens_at_128 3600000 -p tokens_at_256 720000 -p tokens_at_1024 480000 \
	  -p checkpoints build/judge-model -p export_to models/judge $(PARAMS)

profile: $(READY) ## where the time of a first run goes, section by section; build/profile/PROFILE.json
	@$(RUN) -m lib.pipeline.profiling --profile="$$PROFILE"

heads: $(READY) ## every head zeroed on all full tokens; build/heads/heads.json
	@$(RUN) -m lib.analysis.head_study

coverage: $(READY) ## how often intervals from few chunks hold the value of 245; build/coverage/coverage.json
	@$(RUN) -m lib.analysis.coverage_study

scale: $(READY) ## R3: train the family of models and climb each one's ladder; build/scale/scale.json
	@$(RUN) -m lib.training.family

recovery: $(READY) ## R4: train on after the replacement, arm by arm; build/recovery/recovery.json
	@$(RUN) -m lib.training.recovery

reasoner: $(READY) ## train the reasoner of R2 again (about twenty minutes on 2 cores)
	@$(RUN) -m lib.pipeline train reasoner $(PARAMS)

torture: $(READY) ## kills, full disks, damage, bad and hostile input (half an hour to an hour; SHORT=1: minutes); build/torture.json
	@PYTHONPATH="tests$${PYTHONPATH:+:$$PYTHONPATH}" $(RUN) -m torture $(if $(SEED),--seed $(SEED)) $(if $(SHORT),--short) \
	  $(if $(GO_ON),--go-on) --only="$$ONLY"

new-notebook: $(READY) ## start a section from a template: make new-notebook NAME=V6 NEEDS="setup V4"
	@$(RUN) -m lib.pipeline.scaffold -- "$$NAME" $(NEEDS)

clean-cache: $(READY) ## empty the store of scores
	@$(RUN) -c "from lib.store import open_store; store = open_store(); print(f'emptied {store}'); store.clear()"

clean: ## remove everything generated, the environment apart
	rm -rf build

lint: $(READY) ## ruff, mypy, and the contract of who imports whom
	@$(PY) -m ruff check . && $(PY) -m ruff format --check lib kernels report tests
	@$(PY) -m mypy
	@$(VENV)/bin/lint-imports

lock: $(READY) ## write constraints.txt anew from this environment
	@$(PY) -m pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt

env: $(READY) ## only make the environment; EXTRAS=cluster: with what more than one machine needs
	@$(if $(EXTRAS),$(PY) -m pip install --quiet --progress-bar off $(EXTRAS:%=-r requirements-%.txt) -c constraints.txt)

crate-validator: $(VALIDATOR)/.ready ## the environment in which a test validates a pack as an RO-Crate

$(VALIDATOR)/.ready: tests/crate/requirements.txt
	@$(PYTHON) -m venv $(VALIDATOR)
	@$(VALIDATOR)/bin/python -m pip install --quiet --progress-bar off --no-deps -r $<
	@touch $@

metadata: $(READY) ## write codemeta.json, .zenodo.json and docs/reproducibility.md anew
	@$(RUN) -m report.citation
	@$(RUN) -m report.reproducibility

$(READY): requirements.txt constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit(f"Python {sys.version.split()[0]}: 3.11 or newer is needed; pass PYTHON=python3.11")'
	@$(PYTHON) -m venv $(VENV)
	@echo 'installing the pinned packages into $(VENV) (a few minutes) …'
	@$(PY) -m pip install --quiet --progress-bar off -r requirements.txt -c constraints.txt
	@$(PY) -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

FORCE:
