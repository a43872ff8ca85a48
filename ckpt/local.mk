# checkpoint: sources
libcore_la_SOURCES += \
  ckpt/box.c ckpt/box.h \
  ckpt/checkpoint.h \
  ckpt/folder.c ckpt/folder.h \
  ckpt/image.c ckpt/image.h \
  ckpt/inspect.c ckpt/inspect.h \
  ckpt/layout.c ckpt/layout.h \
  ckpt/part.c ckpt/part.h \
  ckpt/plan.c ckpt/plan.h \
  ckpt/reader.c ckpt/reader.h \
  ckpt/restore.c \
  ckpt/save.c \
  ckpt/state.c ckpt/state.h \
  ckpt/table.c ckpt/table.h
