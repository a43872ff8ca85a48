bin_PROGRAMS += cairn
cairn_SOURCES = \
  src/cmd/main.c \
  src/cmd/command.c src/cmd/command.h \
  src/cmd/cmd_ckpt.c \
  src/cmd/cmd_config.c \
  src/cmd/cmd_data.c \
  src/cmd/cmd_doctor.c \
  src/cmd/cmd_eval.c \
  src/cmd/cmd_generate.c \
  src/cmd/cmd_plan.c src/cmd/plan_print.c src/cmd/plan_print.h \
  src/cmd/cmd_run.c \
  src/cmd/cmd_train.c \
  src/cmd/cmd_version.c
cairn_LDADD = libcore.la
