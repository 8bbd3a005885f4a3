# make demo    two reference images and a prompt become a clip in demo/
# make test    all tests, on the CPU
# make check   lint, format, types, tests
# make bench   speed and memory of every part, on the graphics card; figures in BENCH=runs/benchmark
# make fix     what lint and format can mend by themselves
#
# The first call makes .venv. PYTHON=/path/to/python chooses another Python (3.11 or newer); VENV= another place,
# VENV=none the Python that PYTHON names, as it is. TORCH= another build of torch, PIP_FLAGS= is handed to pip.

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3.14 python3 python,\
	$(shell $(name) -c 'import sys; sys.version_info >= (3, 11) and print("$(name)")' 2>/dev/null)))
VENV ?= .venv
TORCH ?= torch==2.13.0
PIP_FLAGS ?=

# The demo's own words; try `make demo PROMPT="..." REFERENCES="a.png b.png"`.
ASSETS := kaleido_core/assets/references
REFERENCES = $(ASSETS)/duck.png $(ASSETS)/robot_face.png
PROMPT = A duck slides to the right and a robot face hops up and down in front of a green meadow under a blue sky.
SEED = 0
CLIP = demo/demo.mp4

# What to measure; try `make bench PARTS=forward,vae COMFYUI=../ComfyUI`.
BENCH = runs/benchmark
PARTS =
COMFYUI =
SCALE = full

ifeq ($(VENV),none)
BIN := $(PYTHON)
READY :=
else
BIN := $(VENV)/bin/python
READY := $(VENV)/.ready
endif
TOOLS = $(BIN) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["test"], sep="\n")'

.PHONY: demo test check bench fix

demo: $(READY)
	@$(BIN) -m kaleido_core generate --prompt "$(PROMPT)" $(foreach image,$(REFERENCES),--reference "$(image)") \
		--seed $(SEED) --out "$(CLIP)" --overwrite >/dev/null
	@echo
	@echo "clip:           $(CLIP)"
	@echo "contact sheet:  $(CLIP:.mp4=.png)"
	@echo "how it was made: $(CLIP:.mp4=.json)"

test: $(READY)
	@$(BIN) -m pytest -q

check: $(READY)
	$(BIN) -m ruff check .
	$(BIN) -m ruff format --check .
	$(BIN) -m pyright --pythonpath $(BIN)
	$(BIN) -m pytest -q

bench: $(READY)
	@$(BIN) -m training.evaluation.benchmark "$(BENCH)" --scale $(SCALE) $(if $(PARTS),--parts $(PARTS)) \
		$(if $(COMFYUI),--comfyui "$(COMFYUI)")

fix: $(READY)
	$(BIN) -m ruff check --fix .
	$(BIN) -m ruff format .

$(VENV)/.ready: pyproject.toml requirements.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer was found; install one, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "preparing $(VENV) with $(PYTHON); this is done once"
	@$(PYTHON) -m venv "$(VENV)"
	@$(BIN) -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) "$(TORCH)" -r requirements.txt
	@$(TOOLS) > "$(VENV)/tools.txt"
	@$(BIN) -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -r "$(VENV)/tools.txt"
	@touch $@
