libcore_la_SOURCES += \
  slurm/allocation.c slurm/allocation.h \
  slurm/child.c slurm/child.h \
  slurm/decide.c slurm/decide.h \
  slurm/history.c slurm/history.h \
  slurm/launch.c slurm/launch.h \
  slurm/ranks.c slurm/ranks.h \
  slurm/supervisor.c slurm/supervisor.h \
  slurm/sweep.c slurm/sweep.h \
  slurm/watch.c
AM_CPPFLAGS += -DCAIRN_MPIEXEC_DEFAULT='"$(MPIEXEC)"'
