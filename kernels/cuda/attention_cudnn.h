/* Attention by cuDNN's fused kernels, where they are there and do what is asked: bfloat16, whole sequences, no dropout (whose masks
 * are to be the processor's), on GPUs of capability 9. CAIRN_CUDNN=0 leaves them alone. */
#ifndef CUDA_ATTENTION_CUDNN_H
#define CUDA_ATTENTION_CUDNN_H

#include "kernels/cuda/cuda.h"

struct attention_cudnn; /* the plans of one shape; the backend's, for as long as it is open */

/* *PLANS: NULL where cuDNN is not to do it, which is no failure; no memory for what it asks for is one. */
cairn_err attention_cudnn_create(struct cuda *, const struct attention_desc *, const struct attention_cudnn **plans);
/* All arrays 16-byte aligned, and as attention_forward and attention_backward have them. */
void attention_cudnn_forward(struct cuda *, const struct attention_cudnn *, void *out, float *log_sum, const void *qkv);
void attention_cudnn_backward(struct cuda *, const struct attention_cudnn *, void *d_qkv, const void *d_out, const void *out,
                              const void *qkv, const float *log_sum);
/* What the backend has of cuDNN. */
void attention_cudnn_close(struct cuda *);

#endif
