libcore_la_SOURCES += \
  src/job/heartbeat.c src/job/heartbeat.h \
  src/job/job.c src/job/job.h \
  src/job/launch.c src/job/launch.h \
  src/job/pmi_bridge.c src/job/pmi_bridge.h \
  src/job/pmi_wire.c src/job/pmi_wire.h \
  src/job/pmix_client.c src/job/pmix_client.h \
  src/job/watchdog.c src/job/watchdog.h
