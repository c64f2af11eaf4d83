# Everything here sets itself up in .venv first and can be run again.
PYTHON ?= python3
RUN := .venv/bin/python

.PHONY: help set_up quickstart miniature_data miniature imbalance muscima bench gpu_check test fast_test lint constraints clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z_]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

set_up:  ## install everything into .venv
	@command -v $(PYTHON) >/dev/null || { echo "error: no $(PYTHON); install Python 3.10 to 3.13, or name one: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) .ci/set_up.py

quickstart: set_up  ## generate a dataset, train Seesaw on it, show AP of rare, common and frequent classes
	@$(RUN) datasets/make_symbols.py --num-classes 30 --root datasets/symbols_30
	@$(RUN) train_net.py --config-file configs/quickstart/seesaw.yaml --resume

MINIATURE := --image-size 96 --plain

miniature_data: set_up  ## generate the data of the two targets below, about a minute
	@$(RUN) datasets/make_symbols.py --root datasets/symbols_pretrain --first-symbol 100 --balanced 240 --seed 1 $(MINIATURE)
	@$(RUN) datasets/make_symbols.py --root datasets/symbols_miniature --max-image-count 4000 $(MINIATURE)
	@for n in 160 800; do \
		$(RUN) datasets/make_symbols.py --root datasets/symbols_imbalance_$$n --max-image-count $$n $(MINIATURE) || exit; \
	done

miniature: miniature_data  ## train the papers' comparisons on a generated dataset, about one hour; goes on where it stopped
	@$(RUN) -m eql_seesaw.tables run miniature
	@$(RUN) -m eql_seesaw.tables run miniature_components
	@$(RUN) -m eql_seesaw.tables collect miniature
	@$(RUN) -m eql_seesaw.tables collect miniature_components

imbalance: miniature  ## train EQL and Seesaw at other imbalances too, another half hour
	@$(RUN) -m eql_seesaw.tables run miniature_imbalance
	@$(RUN) -m eql_seesaw.tables collect miniature_imbalance

MUSCIMA ?= muscima-pp

# make muscima MUSCIMA=FOLDER, of the release that datasets/README.md says where to download
muscima: set_up  ## train the losses on handwritten music, hours; goes on where it stopped
	@test -e datasets/muscima || $(RUN) datasets/prepare_muscima.py --source "$(MUSCIMA)"
	@$(RUN) -m eql_seesaw.tables run muscima
	@$(RUN) -m eql_seesaw.tables run muscima_components
	@$(RUN) -m eql_seesaw.tables collect muscima
	@$(RUN) -m eql_seesaw.tables collect muscima_components

bench: set_up  ## measure this project beside its peers, about 40 minutes; nothing else should run meanwhile
	@$(RUN) -m benchmarks
	@$(RUN) -m benchmarks --device cuda

gpu_check: set_up  ## on a GPU: check what tests check on CPUs, and measure, within minutes
	@$(RUN) -W ignore -m benchmarks.gpu_check --device cuda

# Each test process computes with one thread.
test: set_up  ## run all tests, two at a time
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist worksteal

fast_test: set_up  ## run the tests that are not marked slow
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist worksteal -m "not slow"

lint: set_up  ## check style and types, as before each commit
	@$(RUN) -m pre_commit run --all-files

# make constraints PACKAGES="torch torchvision"
constraints:  ## write constraints.txt anew; PACKAGES, if named, move to their newest versions
	@test -x $(RUN) || $(MAKE) set_up
	@$(RUN) .ci/pin_versions.py $(PACKAGES)

clean:  ## remove .venv and what was generated
	rm -rf .venv output datasets/symbols*
