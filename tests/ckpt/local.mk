# Checkpoints as the command and other HDF5 tools see them, and on a full disk.
check_PROGRAMS += tests/ckpt/make_checkpoint
tests_ckpt_make_checkpoint_SOURCES = tests/ckpt/make_checkpoint.c tests/ranks/checkpoint_arrays.h
tests_ckpt_make_checkpoint_LDADD = libcore.la
TESTS += tests/ckpt/hdf5.t tests/ckpt/cmd.t tests/ckpt/full_disk.t
EXTRA_DIST += tests/ckpt/hdf5.t tests/ckpt/cmd.t tests/ckpt/full_disk.t tests/ckpt/compare.py
EXTRA_DIST += tests/golden/checkpoint-1
