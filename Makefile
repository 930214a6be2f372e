# `make demo` and `make test` need Python (3.11 or later) and a C++ compiler, and install all else into .venv.
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: demo test lint typecheck sanitize pytest format clean

PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
KERNELS = $(shell find cuda_src tests examples benchmarks -name '*.cuh' -o -name '*.hpp' -o -name '*.cpp' -o -name '*.cu')
PYTEST := $(BIN)/pytest --numprocesses=auto --maxprocesses=8 --dist=loadgroup
SANITIZED := tests/test_tag_gridworld.py tests/test_tag_continuous.py tests/test_batched.py tests/test_action_masks.py \
  tests/test_training_kernels.py

# PyCUDA is built with nvcc and of use with a GPU only.
comma := ,
CUDA := $(shell command -v nvcc >/dev/null && nvidia-smi -L >/dev/null 2>&1 && echo $(comma)cuda)

demo: $(VENV)/installed-for-demo
	$(BIN)/python examples/demo.py

# The tests come last, so that their summary closes the output.
test: lint typecheck sanitize pytest

lint: $(VENV)/installed-for-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(KERNELS)

# mypy knows nothing of the folders that are installed inside the package, so it is shown the package as installed.
typecheck: $(VENV)/installed-for-test
	rm -rf build/typing && mkdir -p build/typing/gpu_marl_envs
	cd build/typing && ln -s ../../benchmarks ../../docs ../../examples .
	cd build/typing/gpu_marl_envs && ln -s ../../../gpu_marl_envs/* ../../../adapters .
	cd build/typing && $(BIN)/mypy --config-file ../../pyproject.toml gpu_marl_envs benchmarks docs examples

# Python is not built with the sanitizers, so their runtime has to be loaded before it; CPython keeps memory until it
# exits, which the leak detector would report.
sanitize: $(VENV)/installed-for-test
	GPU_MARL_ENVS_SANITIZE=1 ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	$(PYTEST) $(SANITIZED)

pytest: $(VENV)/installed-for-test
	$(PYTEST)

format: $(VENV)/installed-for-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(KERNELS)

clean:
	rm -rf $(VENV) build dist *.egg-info

$(VENV)/installed-for-demo: extras := examples
$(VENV)/installed-for-test: extras := dev
$(VENV)/installed-for-%: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --constraint constraints.txt --editable '.[$(extras)$(CUDA)]'
	touch $@
