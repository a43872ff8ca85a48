libcore_la_SOURCES += \
  src/mesh/channel.c src/mesh/channel.h \
  src/mesh/collective.c src/mesh/collective.h \
  src/mesh/comm.c src/mesh/comm.h \
  src/mesh/compress.c src/mesh/compress.h src/mesh/compress_parts.c \
  src/mesh/device_collective.c src/mesh/device_collective.h \
  src/mesh/device_link.c src/mesh/device_link.h \
  src/mesh/device_ring.c src/mesh/device_ring.h \
  src/mesh/group.c src/mesh/group.h \
  src/mesh/layout.c src/mesh/layout.h \
  src/mesh/mesh.c src/mesh/mesh.h \
  src/mesh/reduce.c src/mesh/reduce.h \
  src/mesh/reduce_parts.c src/mesh/reduce_parts.h \
  src/mesh/tree.c src/mesh/tree.h
