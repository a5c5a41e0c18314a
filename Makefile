# make train    an environment, mmssl_fast in it, and MMSSL trained on the embedded catalogue
# make test     the same environment with what the tests need, and the tests
#
# PYTHON names the interpreter, VENV the folder of the environment. pip obeys its own variables: PIP_VERBOSE=1 shows the
# compiler at work, PIP_CONSTRAINT and PIP_EXTRA_INDEX_URL choose another torch than the newest.
PYTHON ?= python3
VENV ?= .venv
# The environment's own packages alone count, whatever shell this is called from.
unexport PYTHONPATH
COMPILING := == compiling mmssl_fast: 3 minutes on two cores, 15 more with CUDA; pip is silent meanwhile
BIN := $(abspath $(VENV))/bin

.PHONY: train test
train: $(BIN)/pip
	@echo "$(COMPILING)"
	$(BIN)/pip install ".[train]"
	$(BIN)/mmssl-fast train

test: $(BIN)/pip
	@echo "$(COMPILING)"
	$(BIN)/pip install ".[test]"
	PATH="$(BIN):$$PATH" $(BIN)/pytest -n auto --dist loadfile

# torch first: the library is then compiled against it, and not against a second copy in pip's build environment.
$(BIN)/pip:
	@echo "== making $(VENV) and downloading torch: up to 3 GB with CUDA"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install torch numpy || { rm -rf "$(VENV)"; exit 1; }
