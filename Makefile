# Five verbs: demo, test, check, bench, wheel. Each sets up .venv on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test engines test-engines check bench gpu wheel kernels train nightly clean

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[export,train,dev]'
	touch $@

demo: $(READY)  ## export the committed checkpoint, run it, profile it, and write build/demo/index.html
	$(BIN)/python -m illume_training.demo --checkpoint assets/illume-tiny --output build/demo

test: $(READY)  ## every test that needs no GPU and takes no minutes
	$(BIN)/python -m pytest -q -m "not slow and not gpu"

engines: $(VENV)/.engines  ## install TensorRT for RTX

test-engines: engines  ## what needs TensorRT for RTX (230 MB) and no GPU; `make test` runs it too from then on
	$(BIN)/python -m pytest -q -m "engines and not slow and not gpu"

$(VENV)/.engines: $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[tensorrt-rtx]'
	touch $@

nightly: $(VENV)/.ray  ## the slow sweeps too, a Ray cluster, and the kernels' tests under the sanitizers of gcc
	$(BIN)/python -m pytest -q -m "not gpu"
	$(BIN)/python tests/kernels/sanitized.py

$(VENV)/.ray: $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[ray]'
	touch $@

check: $(READY)  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(READY)  ## benchmarks beside their peers: benchmarks/results/*.json and the README's tables
	$(BIN)/python -m pytest -q benchmarks --benchmark-only --benchmark-columns=median,min,iqr,rounds
	$(BIN)/python -m benchmarks.table

gpu: $(READY)  ## on a machine with an NVIDIA GPU: its tests, compute-sanitizer, and times of kernels and loops (docs/device.md)
	$(BIN)/python -m pytest -q -m gpu
	$(BIN)/python -m benchmarks.gpu --sanitize --minutes 3
	$(BIN)/python -m benchmarks.gpu --model illume-plus-3b

wheel: $(READY)  ## dist/*.whl
	$(BIN)/python -m build --wheel --outdir dist .

NVRTC := build/nvrtc-12.6

kernels: $(READY) $(NVRTC)  ## compile the CUDA kernels ahead of time (needs nvcc); NVRTC of CUDA 12.6 makes JetPack 6's
	$(BIN)/python -m illume_kernels.build --nvrtc $(NVRTC)/nvidia/cuda_nvrtc/lib/libnvrtc.so.12

$(NVRTC): $(READY)
	$(BIN)/python -m pip install --quiet --no-deps --target $@ nvidia-cuda-nvrtc-cu12==12.6.85

train: $(READY)  ## train illume-tiny from nothing: hours on two cores, minutes on a GPU; resumes where it stopped
	$(BIN)/illume train training/configs/illume-tiny.toml

clean:
	rm -rf build dist
