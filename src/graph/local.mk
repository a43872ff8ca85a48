libcore_la_SOURCES += src/graph/arena.c src/graph/backward.c src/graph/graph.c src/graph/graph.h src/graph/graph_internal.h \
  src/graph/joins.c src/graph/ops.c src/graph/ops_classifier.c src/graph/ops_context.c src/graph/ops_experts.c src/graph/ops_stage.c src/graph/ops_tensor.c src/graph/parameters.c src/graph/recorded.c src/graph/run.c src/graph/staging.c src/graph/staging.h src/graph/steps.c
