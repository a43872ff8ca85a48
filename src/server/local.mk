libcore_la_SOURCES += \
  src/server/greeting.c src/server/greeting.h \
  src/server/head.c src/server/server_private.h \
  src/server/message.h \
  src/server/replica.c src/server/replica.h \
  src/server/roles.c src/server/roles.h \
  src/server/server.c src/server/server.h \
  src/server/store.c \
  src/server/sums.c src/server/sums.h \
  src/server/whole.c src/server/whole.h \
  src/server/wire.c src/server/wire.h \
  src/server/work.c src/server/work.h \
  src/server/worker.c src/server/worker.h
