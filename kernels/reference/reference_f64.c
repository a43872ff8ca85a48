#define REAL double
#define TABLE reference_table_f64
#include "kernels/reference/kernels.inc.c"
