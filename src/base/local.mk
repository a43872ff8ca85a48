libcore_la_SOURCES += \
  src/base/clock.h \
  src/base/config.c src/base/config.h \
  src/base/config_print.c \
  src/base/config_table.c src/base/config_table.h \
  src/base/device_code.h \
  src/base/duration.c src/base/duration.h \
  src/base/error.c src/base/error.h \
  src/base/exact_sum.c src/base/exact_sum.h \
  src/base/exit_code.h \
  src/base/folder_lock.c src/base/folder_lock.h \
  src/base/hdf5_lock.c src/base/hdf5_lock.h \
  src/base/make_folders.c src/base/make_folders.h \
  src/base/json_lines.c src/base/json_lines.h \
  src/base/least.h \
  src/base/log.c src/base/log.h \
  src/base/options.c src/base/options.h \
  src/base/permutation.c src/base/permutation.h \
  src/base/philox.h \
  src/base/thread.c src/base/thread.h \
  src/base/trace.c src/base/trace.h \
  src/base/utf8.h \
  src/base/yaml.c src/base/yaml.h
