EXTRA_DIST += tests/bench/README.md tests/bench/pytorch_gpt.py tests/bench/pytorch_gpt_installed.py \
  tests/bench/pytorch_gpt_tuned.py tests/bench/step.sh

EXTRA_PROGRAMS += tests/bench/bench_checkpoint
tests_bench_bench_checkpoint_SOURCES = tests/bench/bench_checkpoint.c
tests_bench_bench_checkpoint_LDADD = libcore.la
