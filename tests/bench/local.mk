EXTRA_DIST += tests/bench/README.md tests/bench/pytorch_gpt.py tests/bench/pytorch_gpt_installed.py \
  tests/bench/pytorch_gpt_tuned.py tests/bench/step.sh tests/bench/median.sh tests/bench/overlap.sh tests/bench/bytes.sh \
  tests/bench/bootstrap.sh tests/bench/memory.sh tests/bench/plan.sh tests/bench/layouts.sh

EXTRA_PROGRAMS += tests/bench/bench_checkpoint
tests_bench_bench_checkpoint_SOURCES = tests/bench/bench_checkpoint.c
tests_bench_bench_checkpoint_LDADD = libcore.la
EXTRA_PROGRAMS += tests/bench/bench_reader
tests_bench_bench_reader_SOURCES = tests/bench/bench_reader.c
tests_bench_bench_reader_LDADD = libcore.la
EXTRA_DIST += tests/bench/reader.sh tests/bench/reader_h5py.py
EXTRA_PROGRAMS += tests/bench/bench_matmul
tests_bench_bench_matmul_SOURCES = tests/bench/bench_matmul.c
tests_bench_bench_matmul_LDADD = $(DNNL_LIBS) -ldl
EXTRA_PROGRAMS += tests/bench/bench_kernels
tests_bench_bench_kernels_SOURCES = tests/bench/bench_kernels.c tests/bench/attention_split.c tests/bench/attention_split.h \
  tests/bench/expert_rows.c tests/bench/expert_rows.h tests/bench/gated_rows.c tests/bench/gated_rows.h tests/bench/kernel_calls.c tests/bench/kernel_calls.h \
  tests/bench/kernel_clock.c tests/bench/kernel_clock.h \
  tests/bench/machine_rates.c tests/bench/machine_rates.h
tests_bench_bench_kernels_LDADD = libcore.la
EXTRA_PROGRAMS += tests/bench/bench_experts
tests_bench_bench_experts_SOURCES = tests/bench/bench_experts.c tests/bench/expert_rows.c tests/bench/expert_rows.h \
  tests/bench/machine_rates.c tests/bench/machine_rates.h
tests_bench_bench_experts_LDADD = libcore.la
