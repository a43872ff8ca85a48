#include "kernels/cuda/product_choice.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

/* One run to warm up, then so many; another algorithm is taken for this much less time alone, as clocks are not exact. */
static constexpr int RUNS = 3;
static constexpr float LESS = 0.98f;
/* An algorithm whose first run takes so much longer than the best is not run again. */
static constexpr float HOPELESS = 1.5f;
/* Small numbers of either type. */
static constexpr int PATTERN = 0x3c;

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

static void *take(const struct trial *t, size_t bytes, bool *ok)
{
    void *p = nullptr;
    if (bytes == 0 || !*ok)
        return p;
    *ok = cudaMalloc(&p, bytes) == cudaSuccess && cudaMemsetAsync(p, PATTERN, bytes, t->cuda->stream) == cudaSuccess;
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
    a->first = take(t, t->first_bytes, &ok);
    a->second = take(t, t->second_bytes, &ok);
    a->result = take(t, t->result_bytes, &ok);
    a->inner = take(t, t->inner ? t->result_bytes : 0, &ok);
    a->bias = take(t, t->bias_bytes, &ok);
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

/* Milliseconds of one run; negative where it fails. */
static float run_once(const struct trial *t, const struct arrays *a, const cublasLtMatmulHeuristicResult_t *result)
{
    float milliseconds = -1;
    if (cudaEventRecord(a->from, t->cuda->stream) != cudaSuccess || !multiply(t, a, result) ||
        cudaEventRecord(a->to, t->cuda->stream) != cudaSuccess || cudaEventSynchronize(a->to) != cudaSuccess ||
        cudaEventElapsedTime(&milliseconds, a->from, a->to) != cudaSuccess)
        return -1;
    return milliseconds;
}

/* The median; negative where it fails or is hopeless. */
static float time_of(const struct trial *t, const struct arrays *a, const cublasLtMatmulHeuristicResult_t *result, float best)
{
    float times[RUNS], warm = run_once(t, a, result);
    if (warm < 0)
        return -1;
    for (int i = 0; i < RUNS; i++) {
        times[i] = run_once(t, a, result);
        if (times[i] < 0 || (best > 0 && times[0] > HOPELESS * best))
            return -1;
    }
    std::sort(times, times + RUNS);
    return times[RUNS / 2];
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
