# Files that a user copies.
examplesdir = $(docdir)/examples
dist_examples_DATA = examples/gpt.sbatch examples/gpt.yaml examples/quickstart.sh
