# make train    create an environment, install mmssl_fast, and train MMSSL on the built-in data set
# make test     install the test dependencies into the same environment, and run the tests
#
# PYTHON is the interpreter, and VENV the folder of the environment. pip reads its usual variables: PIP_VERBOSE=1 shows
# the compiler at work; PIP_CONSTRAINT and PIP_EXTRA_INDEX_URL can select another version of torch.
PYTHON ?= python3
VENV ?= .venv
# Ignore packages outside the environment.
unexport PYTHONPATH
COMPILING := == compiling mmssl_fast: the first time 3 minutes on two cores, 6 with CUDA; pip is silent meanwhile
BIN := $(abspath $(VENV))/bin

.PHONY: train test
train: $(BIN)/pip
	@echo "$(COMPILING)"
	$(BIN)/pip install ".[train]"
	$(BIN)/mmssl-fast train

test: $(BIN)/pip
	@echo "$(COMPILING)"
	$(BIN)/pip install ".[test]"
	@# A process that crashes ends the run. Otherwise pytest-xdist replaces it, and may wait for ever at the end.
	PATH="$(BIN):$$PATH" $(BIN)/pytest -n auto --dist loadfile --max-worker-restart 0

# torch is installed first, so that the library is compiled against it and not against a copy in pip's build environment.
$(BIN)/pip:
	@echo "== making $(VENV) and downloading torch: up to 3 GB with CUDA"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install torch numpy || { rm -rf "$(VENV)"; exit 1; }
