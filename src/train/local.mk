libcore_la_SOURCES += \
  src/train/automatic.c src/train/automatic.h \
  src/train/choices.c src/train/choices.h \
  src/train/compressed.c src/train/compressed.h \
  src/train/device.c src/train/device.h \
  src/train/device_spans.c src/train/device_spans.h \
  src/train/gradient.c src/train/gradient.h src/train/gradient_private.h \
  src/train/gradient_parameters.c \
  src/train/gradient_staging.c \
  src/train/gradient_ties.c \
  src/train/links.c src/train/links.h \
  src/train/learning_rate.c src/train/learning_rate.h \
  src/train/restored_model.c src/train/restored_model.h \
  src/train/numerics.c src/train/numerics.h \
  src/train/optimizer.c src/train/optimizer.h \
  src/train/parallel.c src/train/parallel.h \
  src/train/partial_sums.c src/train/partial_sums.h \
  src/train/shares.c src/train/shares.h \
  src/train/stage.c src/train/stage.h \
  src/train/stage_messages.c src/train/stage_messages.h \
  src/train/sampler.c src/train/sampler.h \
  src/train/local_steps.c src/train/local_steps.h \
  src/train/metrics.c src/train/metrics.h \
  src/train/tracing.c src/train/tracing.h \
  src/train/trainer.c src/train/trainer.h \
  src/train/trainer_arrays.c src/train/trainer_arrays.h \
  src/train/trainer_run.c \
  src/train/trainer_save.c \
  src/train/validation.c src/train/validation.h \
  src/train/weights.c src/train/weights.h \
  src/train/weights_shards.c
