# Whole trainings, small ones: layouts that are chosen, bits, checkpoints, compression, experts, inference, local steps, parameter servers,
# traces.
TRAIN_TESTS = tests/train/auto.t tests/train/bits.t tests/train/checkpoints.t tests/train/compress.t \
  tests/train/cuda.t tests/train/cuda_auto.t tests/train/cuda_float8.t tests/train/cuda_graphs.t tests/train/cuda_links.t tests/train/cuda_products.t tests/train/cuda_trace.t \
  tests/train/experts.t tests/train/inference.t tests/train/local.t tests/train/rounding.t tests/train/run.t tests/train/server.t tests/train/trace.t
TESTS += $(TRAIN_TESTS)
check_PROGRAMS += tests/train/trace_facts
tests_train_trace_facts_SOURCES = tests/train/trace_facts.c
tests_train_trace_facts_LDADD = $(JANSSON_LIBS)
EXTRA_DIST += tests/train/common.sh tests/train/cuda.sh $(TRAIN_TESTS)
