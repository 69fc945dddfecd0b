# Each target makes its own environment on first use; a second call costs nothing.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH ?= torch==2.13.0
# Two processes that test, of one thread each: threads that wait for one another on busy cores take ten times as long.
TESTS = OMP_NUM_THREADS=1
PIP = -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-all test-v5 bench study style clean

demo: .venv/ready
	.venv/bin/python recipes/quickstart.py --output_dir outputs/quickstart

test: .venv/ready
	$(TESTS) .venv/bin/python -m pytest -n 2 --dist loadfile --durations=10

test-all: .venv/ready
	$(TESTS) .venv/bin/python -m pytest -n 2 --dist loadfile --durations=20 -m "slow or not slow"

# The same suite on transformers 5, where Optimum's ONNX part cannot be installed.
test-v5: .venv-v5/ready
	$(TESTS) .venv-v5/bin/python -m pytest -n 2 --dist loadfile --durations=10

bench: .venv/ready outputs/textbrewer
	mkdir -p outputs/bench
	.venv/bin/python benchmarks/augmentation.py --output outputs/bench/augmentation.json
	.venv/bin/python benchmarks/pair_augmentation.py --output outputs/bench/pair_augmentation.json
	.venv/bin/python benchmarks/korean_augmentation.py --output outputs/bench/korean_augmentation.json
	.venv/bin/python benchmarks/generation.py --output outputs/bench/generation.json
	.venv/bin/python benchmarks/audit.py --output outputs/bench/audit.json
	.venv/bin/python benchmarks/three_million_rows.py --output outputs/bench/three_million_rows.json
	.venv/bin/python benchmarks/labeling.py --output outputs/bench/labeling.json
	.venv/bin/python benchmarks/ray_labeling.py --output outputs/bench/ray_labeling.json
	.venv/bin/python benchmarks/meta_pseudo_labels.py --output outputs/bench/meta_pseudo_labels.json
	.venv/bin/python benchmarks/training_step.py --output outputs/bench/training_step.json
	.venv/bin/python benchmarks/loss_terms.py --output outputs/bench/loss_terms.json
	.venv/bin/python benchmarks/students.py --output outputs/bench/students.json
	.venv/bin/python benchmarks/serving.py --output outputs/bench/serving.json
	.venv/bin/python benchmarks/peer.py --textbrewer outputs/textbrewer --output outputs/bench/peer.json

# The peer stands in a folder of its own: it is old, and no part of this project's environment.
outputs/textbrewer:
	.venv/bin/python $(PIP) --no-deps --target $@ textbrewer==0.2.1.post1

# Some hours on two cores; a start that was cut off goes on where it was.
study: .venv/ready
	.venv/bin/python benchmarks/loss_study.py --output outputs/bench/loss_study.json
	.venv/bin/python benchmarks/student_study.py --output outputs/bench/student_study.json
	.venv/bin/python benchmarks/operator_study.py --output outputs/bench/operator_study.json
	.venv/bin/python benchmarks/pruning_study.py --output outputs/bench/pruning_study.json
	.venv/bin/python benchmarks/export_table.py --output outputs/bench/export_table.json

style: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

# torch first and by version: the newest build for Linux brings gigabytes of CUDA packages that a CPU has no use for.
.venv/ready: setup.cfg
	$(PYTHON) -m venv .venv
	.venv/bin/python $(PIP) $(TORCH)
	.venv/bin/python $(PIP) --editable ".[onnx,augment,korean,dev]"
	touch $@

.venv-v5/ready: setup.cfg
	$(PYTHON) -m venv .venv-v5
	.venv-v5/bin/python $(PIP) $(TORCH)
	.venv-v5/bin/python $(PIP) --editable ".[onnx-direct,augment,korean,test]" "transformers>=5,<6"
	touch $@

clean:
	rm -rf .venv .venv-v5 outputs build *.egg-info
