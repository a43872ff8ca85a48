libcore_la_SOURCES += \
  src/base/clock.h \
  src/base/error.c src/base/error.h \
  src/base/exit_code.h \
  src/base/hdf5_lock.c src/base/hdf5_lock.h \
  src/base/log.c src/base/log.h \
  src/base/options.c src/base/options.h \
  src/base/permutation.c src/base/permutation.h \
  src/base/philox.h
