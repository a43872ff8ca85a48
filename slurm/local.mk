libcore_la_SOURCES += \
  slurm/allocation.c slurm/allocation.h \
  slurm/child.c slurm/child.h \
  slurm/command.c slurm/command.h \
  slurm/decide.c slurm/decide.h \
  slurm/history.c slurm/history.h \
  slurm/launch.c slurm/launch.h \
  slurm/output.c slurm/output.h \
  slurm/ranks.c slurm/ranks.h \
  slurm/supervisor.c slurm/supervisor.h \
  slurm/sweep.c slurm/sweep.h \
  slurm/watch.c \
  slurm/workers.c slurm/workers.h
AM_CPPFLAGS += -DCAIRN_MPIEXEC_DEFAULT='"$(MPIEXEC)"'
