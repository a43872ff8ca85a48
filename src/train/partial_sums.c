#include "train/partial_sums.h"

void partial_sums_push(struct backend *backend, struct tree_stack *stack, void *const *slots, int64_t offset, int64_t elements,
                       int64_t microbatch)
{
    const size_t at = (size_t)offset * dtype_size(backend->acc);
    int left;
    tree_push(stack, (struct tree_node){0, microbatch});
    while (tree_join(stack, &left)) {
        char *sum = (char *)slots[left] + at;
        backend->table->add(backend, sum, sum, (char *)slots[left + 1] + at, elements);
    }
}

void partial_sums_squares(struct backend *backend, const void *elements, int64_t count, double *squares, struct exact_sum *total)
{
    const struct squares_run run = {.sums = squares, .x = elements, .n = count};
    backend->table->sum_squares(backend, &run, 1);
    exact_sum_add(total, squares, (count + NORM_CHUNK - 1) / NORM_CHUNK);
}
