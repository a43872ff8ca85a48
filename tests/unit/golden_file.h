/* The golden files of single blocks and layers (tests/golden/README.md). Each function ends the test where it fails. */
#ifndef UNIT_GOLDEN_FILE_H
#define UNIT_GOLDEN_FILE_H

#include <hdf5.h>
#include <stdint.h>

/* The file NAME of tests/golden, closed by H5Fclose. */
hid_t golden_open(const char *name);
double golden_attribute(hid_t group, const char *name);
/* The dataset's N values; freed by free. */
double *golden_array(hid_t group, const char *name, int64_t n);
/* The greatest difference, by the greatest value: single elements near 0 have no relative precision. A NaN is the worst of all. */
double golden_worst(const double *got, const double *golden, int64_t n);

#endif
