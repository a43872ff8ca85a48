libcore_la_SOURCES += \
  src/doctor/cuda.c \
  src/doctor/doctor.c src/doctor/doctor.h \
  src/doctor/gpus.c \
  src/doctor/links.c \
  src/doctor/machine.c \
  src/doctor/nvml.c src/doctor/nvml.h \
  src/doctor/parts.h \
  src/doctor/report.c src/doctor/report.h \
  src/doctor/software.c
