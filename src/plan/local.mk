libcore_la_SOURCES += \
  src/plan/automatic.c src/plan/automatic.h \
  src/plan/block_time.c src/plan/block_time.h \
  src/plan/checkpoint_interval.c src/plan/checkpoint_interval.h \
  src/plan/exchange.c src/plan/exchange.h \
  src/plan/experts.c src/plan/experts.h \
  src/plan/hardware.c src/plan/hardware.h \
  src/plan/kernel_time.c src/plan/kernel_time.h \
  src/plan/link_time.c src/plan/link_time.h \
  src/plan/memory.c src/plan/memory.h \
  src/plan/model.c src/plan/model.h \
  src/plan/numbers.h \
  src/plan/plan.c src/plan/plan.h \
  src/plan/step_time.c src/plan/step_time.h
dist_pkgdata_DATA += src/plan/hardware.yaml
