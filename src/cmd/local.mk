bin_PROGRAMS += cairn
cairn_SOURCES = \
  src/cmd/main.c \
  src/cmd/command.c src/cmd/command.h \
  src/cmd/cmd_config.c \
  src/cmd/cmd_data.c \
  src/cmd/cmd_version.c
cairn_LDADD = libcore.la
