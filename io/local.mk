libcore_la_SOURCES += \
  io/agree.c io/agree.h \
  io/chunk_cache.c io/chunk_cache.h \
  io/dataset.c io/dataset.h \
  io/dataset_structure.c io/dataset_structure.h \
  io/hdf5_attribute.c io/hdf5_attribute.h \
  io/hdf5_error.c io/hdf5_error.h \
  io/loader.c io/loader.h
