EXTRA_DIST += tests/golden/README.md tests/golden/make_gpt.py \
  tests/golden/make_experts.py tests/golden/experts.h5 \
  tests/golden/make_layers.py tests/golden/layers.h5 \
  tests/golden/gpt_tied.h5 tests/golden/gpt_untied.h5 tests/golden/gpt_accumulate.h5
