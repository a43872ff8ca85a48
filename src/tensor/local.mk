libcore_la_SOURCES += src/tensor/dtype.h src/tensor/shard.c src/tensor/shard.h
