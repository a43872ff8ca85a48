/* What a device carries out when, in the training's trace (base/trace.h): lanes of kernels and of links under the rank's others. */
#ifndef TRAIN_DEVICE_SPANS_H
#define TRAIN_DEVICE_SPANS_H

#include "kernels/backend.h"

/* Has BACKEND note what it carries out from now on, where something is traced; nothing on processors. */
cairn_err device_spans_open(struct backend *backend);

/* Puts what was carried out since the last call into the trace. Waits for the device: called where it has been waited for. */
void device_spans_take(struct backend *backend);

#endif
