# Files that a user copies.
dist_examples_DATA = examples/quickstart.sh
examplesdir = $(docdir)/examples
