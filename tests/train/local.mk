# Whole trainings, small ones: bits, checkpoints, inference.
TRAIN_TESTS = tests/train/bits.t tests/train/checkpoints.t tests/train/inference.t tests/train/run.t
TESTS += $(TRAIN_TESTS)
EXTRA_DIST += tests/train/common.sh $(TRAIN_TESTS)
