EXTRA_DIST += tests/gpu/README.md tests/gpu/bundle tests/gpu/environment.sh tests/gpu/peers/llmc_tokens.py tests/gpu/peers/pytorch_gpt.py \
  tests/gpu/repeat tests/gpu/run tests/gpu/step
