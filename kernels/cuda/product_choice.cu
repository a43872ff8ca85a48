#include "kernels/cuda/product_choice.h"

#include <cstdlib>
#include <cstring>
#include <initializer_list>

/* One run to warm up, then so many at once, twice; another algorithm is taken for this much less time alone, as clocks are not exact. */
static constexpr int RUNS = 4, TURNS = 2;
static constexpr float LESS = 0.98f;
/* An algorithm whose first runs take so much longer than the best is not run again. */
static constexpr float HOPELESS = 1.5f;

struct choices {
    struct product_choice *list;
    int count, room;
};

static_assert(sizeof(cublasLtMatmulAlgo_t) <= sizeof(product_choice::algorithm), "an algorithm has room");

int choice_find(const struct cuda *cuda, const char *product)
{
    const struct choices *c = cuda->choices;
    for (int i = 0; c != nullptr && i < c->count; i++)
        if (strcmp(c->list[i].product, product) == 0)
            return i;
    return -1;
}

static cairn_err set(struct cuda *cuda, const struct product_choice *choice, int *place)
{
    struct choices *c = cuda->choices;
    *place = choice_find(cuda, choice->product);
    if (*place >= 0) {
        c->list[*place] = *choice;
        return CAIRN_OK;
    }
    if (c == nullptr)
        c = cuda->choices = static_cast<struct choices *>(calloc(1, sizeof *c));
    if (c != nullptr && c->count == c->room) {
        int room = 2 * c->room + 32;
        void *more = realloc(c->list, static_cast<size_t>(room) * sizeof *c->list);
        if (more != nullptr) {
            c->list = static_cast<struct product_choice *>(more);
            c->room = room;
        }
    }
    if (c == nullptr || c->count == c->room)
        return FAIL(CAIRN_ENOMEM, "no memory for the products' algorithms");
    *place = c->count;
    c->list[c->count++] = *choice;
    return CAIRN_OK;
}

cairn_err choice_set(struct cuda *cuda, const char *product, const cublasLtMatmulAlgo_t *algorithm, size_t workspace_bytes, bool timed,
                     int *place)
{
    struct product_choice choice = {};
    if (strlen(product) >= sizeof choice.product)
        return FAIL(CAIRN_EINVAL, "a product is described by too many letters: %s", product);
    strcpy(choice.product, product);
    if (algorithm != nullptr)
        memcpy(choice.algorithm, algorithm, sizeof *algorithm);
    choice.workspace_bytes = workspace_bytes;
    choice.timed = timed;
    return set(cuda, &choice, place);
}

const struct product_choice *choice_at(const struct cuda *cuda, int place)
{
    return &cuda->choices->list[place];
}

bool choice_is_none(const struct product_choice *choice)
{
    static const struct product_choice none = {};
    return memcmp(choice->algorithm, none.algorithm, sizeof none.algorithm) == 0;
}

void choices_close(struct cuda *cuda)
{
    if (cuda->choices != nullptr)
        free(cuda->choices->list);
    free(cuda->choices);
    cuda->choices = nullptr;
}

/* ---- by time ---- */

struct arrays {
    void *first, *second, *result, *inner, *bias;
    cudaEvent_t from, to;
};

/* Numbers of either sign from 1/128 to 2 (in float8 from 1 on), of 4, 2 or 1 bytes: MASK keeps signs and lower bits, EXPONENT is what all have. A GPU that multiplies
 * zeros, or one number, takes less power than in a training, and so has a faster clock. */
static __global__ void fill_kernel(uint32_t *words, int64_t n, uint32_t mask, uint32_t exponent)
{
    int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    uint32_t hash = static_cast<uint32_t>(i) * 0x9e3779b1u; /* by the golden ratio; the rest as MurmurHash3 ends */
    hash ^= hash >> 15;
    hash *= 0x85ebca6bu;
    words[i] = ((hash ^ hash >> 13) & mask) | exponent;
}

static void *take(const struct trial *t, size_t bytes, unsigned element, bool *ok)
{
    static constexpr int BLOCK = 256;
    uint32_t signs = element == 4 ? 0x83ffffffu : element == 2 ? 0x83ff83ffu : 0x83838383u;
    uint32_t exponent = element == 4 ? 0x3c000000u : element == 2 ? 0x3c003c00u : 0x3c3c3c3cu;
    void *p = nullptr;
    if (bytes == 0 || !*ok)
        return p;
    int64_t words = static_cast<int64_t>((bytes + 3) / 4);
    *ok = cudaMalloc(&p, static_cast<size_t>(words) * 4) == cudaSuccess;
    if (*ok)
        launch(t->cuda, "numbers for a trial", fill_kernel, dim3(blocks_of(words, BLOCK)), dim3(BLOCK), 0, static_cast<uint32_t *>(p), words, signs, exponent);
    return p;
}

static void give_back(struct arrays *a)
{
    for (void *p : {a->first, a->second, a->result, a->inner, a->bias})
        cudaFree(p);
    for (cudaEvent_t event : {a->from, a->to})
        if (event != nullptr)
            cudaEventDestroy(event);
    cudaGetLastError(); /* to have no memory for a trial is no failure */
}

static bool set_pointers(const struct trial *t, const struct arrays *a)
{
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    if (t->bias_bytes > 0 && t->d_bias_rows == 0)
        status = cublasLtMatmulDescSetAttribute(t->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &a->bias, sizeof a->bias);
    if (t->inner && status == CUBLAS_STATUS_SUCCESS)
        status = cublasLtMatmulDescSetAttribute(t->operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &a->inner, sizeof a->inner);
    return status == CUBLAS_STATUS_SUCCESS;
}

static bool prepare(const struct trial *t, struct arrays *a)
{
    bool ok = cudaSetDevice(t->cuda->device) == cudaSuccess;
    a->first = take(t, t->first_bytes, t->operand_bytes, &ok);
    a->second = take(t, t->second_bytes, t->operand_bytes, &ok);
    a->result = take(t, t->result_bytes, t->operand_bytes, &ok);
    a->inner = take(t, t->inner ? t->result_bytes : 0, t->operand_bytes, &ok);
    a->bias = take(t, t->bias_bytes, t->operand_bytes, &ok);
    return ok && cudaEventCreate(&a->from) == cudaSuccess && cudaEventCreate(&a->to) == cudaSuccess && set_pointers(t, a);
}

static bool multiply(const struct trial *t, const struct arrays *a, const cublasLtMatmulHeuristicResult_t *result)
{
    struct cuda *cuda = t->cuda;
    const float one = 1;
    if (cublasLtMatmul(cuda->products, t->operation, &one, a->first, t->first, a->second, t->second, &t->factor, a->result, t->result,
                       a->result, t->result, &result->algo, cuda->workspace, result->workspaceSize, cuda->stream) != CUBLAS_STATUS_SUCCESS)
        return false;
    if (t->d_bias_rows > 0)
        norm_bias_backward(&cuda->base, a->bias, a->second, t->d_bias_rows, t->d_bias_width);
    return cuda->error == cudaSuccess;
}

/* Milliseconds of one of RUNS runs, one after the other, so that the host's share of a call hides under the run before; negative where one fails. */
static float run(const struct trial *t, const struct arrays *a, const cublasLtMatmulHeuristicResult_t *result, int runs)
{
    float milliseconds = -1;
    bool ok = cudaEventRecord(a->from, t->cuda->stream) == cudaSuccess;
    for (int i = 0; i < runs && ok; i++)
        ok = multiply(t, a, result);
    ok = ok && cudaEventRecord(a->to, t->cuda->stream) == cudaSuccess && cudaEventSynchronize(a->to) == cudaSuccess &&
         cudaEventElapsedTime(&milliseconds, a->from, a->to) == cudaSuccess;
    return ok ? milliseconds / static_cast<float>(runs) : -1;
}

/* The least; negative where it fails or is hopeless. */
static float time_of(const struct trial *t, const struct arrays *a, const cublasLtMatmulHeuristicResult_t *result, float best)
{
    float least = run(t, a, result, 1);
    for (int i = 0; i < TURNS && least >= 0; i++) {
        float time = run(t, a, result, RUNS);
        if (time < 0 || (best > 0 && time > HOPELESS * best))
            return -1;
        least = i == 0 || time < least ? time : least;
    }
    return least;
}

int choice_by_time(const struct trial *t, const cublasLtMatmulHeuristicResult_t *results, int count)
{
    struct arrays a = {};
    int fastest = 0;
    float best = -1;
    if (count == 1)
        return 0;
    bool ready = prepare(t, &a);
    for (int i = 0; ready && i < count; i++) {
        float time = time_of(t, &a, &results[i], best);
        if (time >= 0 && (best < 0 || time < LESS * best)) {
            best = time;
            fastest = i;
        }
    }
    give_back(&a);
    return ready ? fastest : UNTRIED;
}

float choice_time(const struct trial *t, const cublasLtMatmulHeuristicResult_t *result)
{
    struct arrays a = {};
    float time = prepare(t, &a) ? time_of(t, &a, result, -1) : -1;
    give_back(&a);
    return time;
}

/* ---- the table's ---- */

static int choices_list(struct backend *b, const struct product_choice **list)
{
    const struct choices *c = cuda_of(b)->choices;
    *list = c != nullptr ? c->list : nullptr;
    return c != nullptr ? c->count : 0;
}

static cairn_err choose(struct backend *b, const struct product_choice *list, int count)
{
    struct cuda *cuda = cuda_of(b);
    int place;
    for (int i = 0; i < count; i++)
        TRY(set(cuda, &list[i], &place));
    return CAIRN_OK;
}

void product_choice_fill(struct backend_table *t)
{
    t->choices = choices_list;
    t->choose = choose;
}
