EXTRA_DIST += tests/bench/README.md tests/bench/pytorch_gpt.py tests/bench/pytorch_gpt_installed.py \
  tests/bench/pytorch_gpt_tuned.py tests/bench/step.sh
