libcore_la_SOURCES += \
  io/chunk_cache.c io/chunk_cache.h \
  io/dataset.c io/dataset.h \
  io/dataset_structure.c io/dataset_structure.h \
  io/dataset_verify.c io/dataset_verify.h \
  io/dataset_writer.c io/dataset_writer.h \
  io/gzip_stream.c io/gzip_stream.h \
  io/hdf5_attribute.c io/hdf5_attribute.h \
  io/hdf5_error.c io/hdf5_error.h \
  io/import_text.c io/import_text.h \
  io/loader.c io/loader.h \
  io/progress.c io/progress.h \
  io/text_source.c io/text_source.h \
  io/text_split.c io/text_split.h
