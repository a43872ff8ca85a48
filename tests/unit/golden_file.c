#include "golden_file.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

hid_t golden_open(const char *name)
{
    const char *source = getenv("CAIRN_SOURCE");
    char path[4096];
    snprintf(path, sizeof path, "%s/tests/golden/%s", source ? source : ".", name);
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    cr_assert_geq(file, 0, "cannot open %s", path);
    return file;
}

double golden_attribute(hid_t group, const char *name)
{
    double value = 0;
    hid_t a = H5Aopen(group, name, H5P_DEFAULT);
    cr_assert(a >= 0 && H5Aread(a, H5T_NATIVE_DOUBLE, &value) >= 0, "no attribute %s", name);
    H5Aclose(a);
    return value;
}

double *golden_array(hid_t group, const char *name, int64_t n)
{
    double *values = malloc((size_t)n * sizeof *values);
    hid_t d = H5Dopen(group, name, H5P_DEFAULT), space = H5Dget_space(d);
    cr_assert_eq(H5Sget_simple_extent_npoints(space), n, "%s", name);
    cr_assert_geq(H5Dread(d, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values), 0, "%s", name);
    H5Sclose(space);
    H5Dclose(d);
    return values;
}

double golden_worst(const double *got, const double *golden, int64_t n)
{
    double worst = 0, greatest = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs(got[i] - golden[i]);
        worst = isnan(d) || d >= worst ? d : worst;
        if (isnan(worst))
            return (double)INFINITY;
        greatest = fmax(greatest, fabs(golden[i]));
    }
    return worst / greatest;
}
