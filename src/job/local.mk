libcore_la_SOURCES += \
  src/job/crash.c src/job/crash.h \
  src/job/heartbeat.c src/job/heartbeat.h \
  src/job/job.c src/job/job.h src/job/job_private.h \
  src/job/launch.c src/job/launch.h \
  src/job/leave.c \
  src/job/memory.c src/job/memory.h \
  src/job/mpi_calls.c src/job/mpi_calls.h \
  src/job/near.c src/job/near.h \
  src/job/pmi_bridge.c src/job/pmi_bridge.h \
  src/job/pmi_session.c src/job/pmi_session.h \
  src/job/pmi_wire.c src/job/pmi_wire.h \
  src/job/pmix_client.c src/job/pmix_client.h \
  src/job/threads.c src/job/threads.h \
  src/job/time_left.c src/job/time_left.h \
  src/job/watchdog.c src/job/watchdog.h
