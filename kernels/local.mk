libcore_la_SOURCES += kernels/backend.h
