# Files that a user copies.
examplesdir = $(docdir)/examples
dist_examples_DATA = examples/gpt.sbatch examples/gpt.yaml examples/quickstart.sh
layoutsdir = $(examplesdir)/layouts
dist_layouts_DATA = examples/layouts/auto.yaml examples/layouts/compress.yaml examples/layouts/context.yaml examples/layouts/data.yaml \
  examples/layouts/experts.yaml examples/layouts/hybrid.yaml examples/layouts/local.yaml examples/layouts/pipeline.yaml \
  examples/layouts/server.yaml examples/layouts/tensor.yaml examples/layouts/zero.yaml
