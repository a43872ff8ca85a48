#define REAL float
#define TABLE reference_table_f32
#include "kernels/reference/kernels.inc.c"
