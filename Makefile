# Everything runs in .venv, which is made on first use and again when pyproject.toml or constraints.txt change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUT ?= out
SAMPLE ?= scene1
QUESTION ?=
TRANSFORMERS ?=
# For test-oldest and test-newest: newer torch wheels pull gigabytes of CUDA packages on a machine without a GPU.
TORCH ?= $(shell grep '^torch==' constraints.txt)

.DEFAULT_GOAL := help
# The GPU's machine: a Python with torch, and what else is missing there as wheels in a directory.
GPU_PYTHON ?= python3
WHEELS ?=
WHEELS_FOR ?= 3.12

.PHONY: help install gpu gpu-dry gpu-wheels demo test fuzz test-slow test-gpu test-newest test-oldest test-stock test-trl test-onnx test-kernels test-lmms test-vllm test-ray test-serve eval-lmms lint format types docs matrix architectures bench bench-onnx bench-train eval-demo train-demo clean distclean test-web

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: $(STAMP)  ## make .venv with the library and the development tools

# The dev group is handed over as a requirements file: `pip install --group` needs a newer pip than Python 3.11 brings.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "trimkit needs Python 3.11 or newer: make PYTHON=python3.11 …")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["dev"], sep="\n")' > $(VENV)/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r $(VENV)/dev.txt -e .
	touch $@

demo: $(STAMP)  ## ask the embedded model about a sample picture, with all image tokens and with a fifth of them
	@mkdir -p $(OUT)
	$(BIN)/trimkit show $(SAMPLE) $(if $(QUESTION),"$(QUESTION)") -o $(OUT)/overlay.png

test: $(STAMP)  ## the quick tests
	$(BIN)/python -m pytest -n auto --maxprocesses 8

test-slow: $(STAMP) test-trl  ## the tests that take minutes, those with TRL included
	$(BIN)/python -m pytest -m "slow and not gpu"

fuzz: $(STAMP)  ## 2,000 hostile command lines, others each day: COMMANDS=number SEED=number
	$(BIN)/python -m pytest tests/fuzz -m fuzz -s $(if $(COMMANDS),--fuzz-commands $(COMMANDS)) $(if $(SEED),--fuzz-seed $(SEED))

test-gpu: $(STAMP)  ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

gpu:  ## all that a GPU has to show, in 8 minutes, offline: GPU_PYTHON=python WHEELS=directory; writes benchmarks/results/gpu.json
	$(GPU_PYTHON) -m benchmarks.gpu $(if $(WHEELS),--wheels $(WHEELS))

gpu-dry: $(STAMP)  ## the same steps with tiny shapes on the CPU
	$(BIN)/python -m benchmarks.gpu --dry-run --out $(OUT)/gpu-dry.json

gpu-wheels: $(STAMP)  ## wheels of what make gpu needs besides torch, into $(OUT)/wheels: WHEELS_FOR=3.12
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest $(OUT)/wheels \
		--python-version $(WHEELS_FOR) --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
		--platform manylinux2014_x86_64 -c constraints.txt $(shell cat benchmarks/gpu/wheels.txt)

test-stock: $(STAMP)  ## transformers' own generation tests, without and with trimkit: TRANSFORMERS=checkout
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt parameterized pytest-xdist httpx requests
	$(BIN)/python -m tests.stock.run --transformers "$(TRANSFORMERS)"

TRL := .venv-trl
TRL_STAMP := $(TRL)/.installed

$(TRL_STAMP): pyproject.toml constraints.txt tests/trl/requirements.txt
	test -x $(TRL)/bin/python || $(PYTHON) -m venv $(TRL)
	$(TRL)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r tests/trl/requirements.txt -e .
	touch $@

test-trl: $(TRL_STAMP)  ## TRL's own trainers on an attached model, in a .venv-trl of its own
	$(TRL)/bin/python -m pytest tests/trl -m slow

ONNX := .venv-onnx
ONNX_STAMP := $(ONNX)/.installed

$(ONNX_STAMP): pyproject.toml constraints.txt tests/onnx/requirements.txt
	test -x $(ONNX)/bin/python || $(PYTHON) -m venv $(ONNX)
	$(ONNX)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r tests/onnx/requirements.txt -e ".[onnx,openvino]"
	touch $@

test-onnx: $(ONNX_STAMP)  ## export to ONNX and vision_engine=, with ONNX Runtime and OpenVINO, in a .venv-onnx of its own
	$(ONNX)/bin/python -m pytest tests/onnx

bench-onnx: $(ONNX_STAMP)  ## ONNX Runtime and OpenVINO beside torch on this CPU; writes benchmarks/results/bench_engines.json
	$(ONNX)/bin/python -m benchmarks.bench_engines

KERNELS := .venv-kernels
KERNELS_STAMP := $(KERNELS)/.installed

$(KERNELS_STAMP): pyproject.toml constraints.txt tests/kernels/requirements.txt
	test -x $(KERNELS)/bin/python || $(PYTHON) -m venv $(KERNELS)
	$(KERNELS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r tests/kernels/requirements.txt -e .
	touch $@

test-kernels: $(KERNELS_STAMP)  ## the GPU kernels in Triton's interpreter on the CPU, in a .venv-kernels of its own
	TRITON_INTERPRET=1 $(KERNELS)/bin/python -m pytest tests/kernels

RAY := .venv-ray
RAY_STAMP := $(RAY)/.installed

$(RAY_STAMP): tests/ray/requirements.txt
	test -x $(RAY)/bin/python || $(PYTHON) -m venv $(RAY)
	$(RAY)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/ray/requirements.txt
	touch $@

test-ray: $(RAY_STAMP)  ## the batch example on Ray Data with two servers, in a .venv-ray of its own (no torch)
	PYTHONPATH=src $(RAY)/bin/python -m pytest tests/ray -m slow --confcutdir tests/ray

# No stamp: what is newest changes by the day. The caps of pyproject.toml do not hold here, so that one sees what comes.
NEWEST := .venv-newest
OLDEST := .venv-oldest

test-newest:  ## the quick tests on the newest of everything but torch, in .venv-newest; the newest torch, too: TORCH=torch
	test -x $(NEWEST)/bin/python || $(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m tests.ranges newest > $(NEWEST)/requirements.txt
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager "$(TORCH)" -r $(NEWEST)/requirements.txt
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	$(NEWEST)/bin/python -m pip list --disable-pip-version-check
	$(NEWEST)/bin/python -m pytest -n auto --maxprocesses 8

test-oldest:  ## the quick tests on the lowest versions that pyproject.toml allows (torch as pinned), in .venv-oldest
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m tests.ranges oldest > $(OLDEST)/requirements.txt
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" -r $(OLDEST)/requirements.txt -e .
	$(OLDEST)/bin/python -m pip list --disable-pip-version-check
	$(OLDEST)/bin/python -m pytest -n auto --maxprocesses 8

LMMS := .venv-lmms
LMMS_STAMP := $(LMMS)/.installed

$(LMMS_STAMP): pyproject.toml constraints.txt tests/lmms/requirements.txt
	test -x $(LMMS)/bin/python || $(PYTHON) -m venv $(LMMS)
	$(LMMS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r tests/lmms/requirements.txt -e .
	$(LMMS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "lmms-eval>=0.7.3,<0.8"
	touch $@

test-lmms: $(LMMS_STAMP)  ## the lmms-eval plugin by the real lmms-eval command, in a .venv-lmms of its own
	$(LMMS)/bin/python -m pytest tests/lmms -m slow

VLLM := .venv-vllm
VLLM_STAMP := $(VLLM)/.installed

# torchvision comes built for CUDA and cannot load its operators beside a CPU build of torch: tests/vllm/torchvision_operators.py.
$(VLLM_STAMP): pyproject.toml tests/vllm/requirements.txt tests/vllm/torchvision_operators.py
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/vllm/requirements.txt
	$(VLLM)/bin/python -m pip uninstall --quiet --disable-pip-version-check -y torchaudio torchcodec
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	cp tests/vllm/torchvision_operators.py $$($(VLLM)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/trimkit_torchvision_operators.py
	echo 'import trimkit_torchvision_operators' > $$($(VLLM)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/trimkit_torchvision_operators.pth
	touch $@

test-vllm: $(VLLM_STAMP)  ## real vLLM servers against transformers + trimkit, in a .venv-vllm of its own; long, a gigabyte
	$(VLLM)/bin/python -m pytest tests/vllm -m vllm

WEB := .venv-web
WEB_STAMP := $(WEB)/.installed

$(WEB_STAMP): pyproject.toml constraints.txt tests/web/requirements.txt
	test -x $(WEB)/bin/python || $(PYTHON) -m venv $(WEB)
	$(WEB)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r tests/web/requirements.txt -e ".[demo]"
	touch $@

test-web: $(WEB_STAMP)  ## the page of trimkit demo, clicked through in Chromium (CHROMIUM=path), in a .venv-web of its own; screenshots in out/web
	$(WEB)/bin/python -m pytest tests/web -m slow

SERVE := .venv-serve
SERVE_STAMP := $(SERVE)/.installed

$(SERVE_STAMP): pyproject.toml constraints.txt tests/serve/requirements.txt
	test -x $(SERVE)/bin/python || $(PYTHON) -m venv $(SERVE)
	$(SERVE)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r tests/serve/requirements.txt -e ".[serve]"
	touch $@

test-serve: $(SERVE_STAMP)  ## the server on transformers: clients, 64 at once, 2,000 hostile requests, in a .venv-serve of its own
	$(SERVE)/bin/python -m pytest tests/serve -m slow

eval-lmms: $(LMMS_STAMP)  ## local task files by lmms-eval, batch 1 and 8; writes benchmarks/results/lmms_local.json
	$(LMMS)/bin/python -m tests.lmms.run

.PHONY: docs-site docs-axe test-notebooks notebooks dist test-pythons prose
DOCS := .venv-docs
DOCS_STAMP := $(DOCS)/.installed

$(DOCS_STAMP): pyproject.toml
	test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["docs"], sep="\n")' > $(DOCS)/requirements.txt
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check -r $(DOCS)/requirements.txt
	touch $@

docs-site: $(DOCS_STAMP)  ## the documentation site into $(OUT)/site, with every link and anchor checked, in a .venv-docs of its own
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/python -m mkdocs build --strict --quiet
	@echo "wrote $(OUT)/site; to read it: $(DOCS)/bin/python -m http.server --bind 127.0.0.1 --directory $(OUT)/site 8008"

docs-axe: docs-site  ## accessibility of the site by axe-core in headless Chromium; needs node, npm and chromium
	npm install --silent --no-audit --no-fund --prefix $(OUT)/axe axe-core@4 puppeteer-core@24
	$(DOCS)/bin/python -m http.server --bind 127.0.0.1 --directory $(OUT)/site 8124 >/dev/null 2>&1 & server=$$!; sleep 1; \
	AXE_HOME=$(abspath $(OUT))/axe CHROMIUM="$(CHROMIUM)" node tools/axe.mjs http://127.0.0.1:8124/ "" quick-start/ leaderboard/ results/ api/ serving/; \
	code=$$?; kill $$server; exit $$code

PROSE := .venv-prose
PROSE_STAMP := $(PROSE)/.installed

$(PROSE_STAMP): Makefile
	test -x $(PROSE)/bin/python || $(PYTHON) -m venv $(PROSE)
	$(PROSE)/bin/python -m pip install --quiet --disable-pip-version-check "proselint>=0.16,<0.17"
	touch $@

prose: $(PROSE_STAMP)  ## the prose of README and docs, by tools/prose.toml and proselint, in a .venv-prose of its own
	$(PROSE)/bin/python tools/prose.py

NOTEBOOKS := .venv-notebooks
NOTEBOOKS_STAMP := $(NOTEBOOKS)/.installed

$(NOTEBOOKS_STAMP): pyproject.toml constraints.txt
	test -x $(NOTEBOOKS)/bin/python || $(PYTHON) -m venv $(NOTEBOOKS)
	$(NOTEBOOKS)/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["notebooks"], sep="\n")' > $(NOTEBOOKS)/requirements.txt
	$(NOTEBOOKS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r $(NOTEBOOKS)/requirements.txt -e ".[serve]"
	touch $@

test-notebooks: $(NOTEBOOKS_STAMP)  ## run every notebook anew, in a .venv-notebooks of its own
	$(NOTEBOOKS)/bin/python tools/run_notebooks.py

notebooks: $(NOTEBOOKS_STAMP)  ## the same, and keep what they print
	$(NOTEBOOKS)/bin/python tools/run_notebooks.py --save

DIST := .venv-dist

# The wheel is built from the sdist, so that both are complete.
dist:  ## sdist and wheel into $(OUT)/dist, with contents, size and metadata checked, in a .venv-dist of its own
	test -x $(DIST)/bin/python || $(PYTHON) -m venv $(DIST)
	$(DIST)/bin/python -m pip install --quiet --disable-pip-version-check build twine
	rm -rf $(OUT)/dist
	$(DIST)/bin/python -m build --outdir $(OUT)/dist .
	$(DIST)/bin/python -m twine check --strict $(OUT)/dist/*
	$(DIST)/bin/python tools/check_dist.py $(OUT)/dist

# Torch's wheels for these Pythons bring gigabytes of CUDA here: what needs no torch is tried, and that every file compiles.
PYTHONS ?= python3.12 python3.13
test-pythons: dist  ## the wheel on other Pythons, as far as it goes without torch: PYTHONS="python3.12 python3.13"
	set -e; for python in $(PYTHONS); do \
		rm -rf $(OUT)/python; $$python -m venv $(OUT)/python; \
		$(OUT)/python/bin/python -m pip install --quiet --disable-pip-version-check --no-deps $(OUT)/dist/*.whl; \
		$(OUT)/python/bin/python -m pip install --quiet --disable-pip-version-check typer rich pydantic packaging numpy pillow; \
		$(OUT)/python/bin/python tools/check_python.py; \
	done

lint: $(STAMP)  ## ruff (rules and formatting), what may import what (import-linter), lengths of files and functions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYTHONPATH=src $(BIN)/lint-imports --no-cache
	$(BIN)/python tools/check_sizes.py src

format: $(STAMP)  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP)  ## mypy, strict
	$(BIN)/mypy

docs: $(STAMP)  ## regenerate the method table, the CLI pages and the result tables
	$(BIN)/python -m docs.generate
	$(BIN)/python -m benchmarks.tables

matrix: $(STAMP)  ## run the contract tests of model families that have no row yet, and add it; all of them anew: ALL=1
	$(BIN)/python -m pytest tests/contract --matrix benchmarks/results/families.json $(if $(ALL),,--matrix-missing)
	$(BIN)/python -m docs.generate

architectures: $(STAMP)  ## try every image-text-to-text architecture of transformers; writes benchmarks/results/architectures.json
	$(BIN)/python -m tests.architectures
	$(BIN)/python -m docs.generate

# bench_claim last: it takes longest. Each result is written when its experiment is done.
BENCHES := bench_prefill bench_prefill_7b bench_added bench_second_question bench_memory bench_tower bench_rivals bench_claim

bench: $(STAMP)  ## measure time, memory and FLOPs on random-weight LLaVAs, the paper's claim among them; writes benchmarks/results/bench_*.json
	set -e; for name in $(BENCHES); do $(BIN)/python -m benchmarks.run $$name; done
	$(BIN)/python -m benchmarks.bench_steps

bench-train: $(STAMP)  ## fine-tune the demo model with and without TRIM; writes benchmarks/results/training.json
	$(BIN)/python -m benchmarks.bench_training

eval-demo: $(STAMP)  ## evaluate the demo model on held-out scenes; writes benchmarks/results/demo_scenes.json
	$(BIN)/python -m benchmarks.run demo_scenes

train-demo: $(STAMP)  ## rebuild the demo model from nothing (hours on two cores)
	$(BIN)/python -m recipes.demo.build

clean:  ## remove caches and build results
	rm -rf $(OUT) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find src tests recipes benchmarks examples docs -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## clean, and remove every .venv
	rm -rf $(VENV) $(LMMS) $(TRL) $(ONNX) $(KERNELS) $(VLLM) $(RAY) $(SERVE) $(NEWEST) $(OLDEST) $(WEB) .venv-*
