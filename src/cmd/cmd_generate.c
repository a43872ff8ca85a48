/* cairn generate: text from a checkpoint. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/exit_code.h"
#include "cmd/command.h"
#include "job/job.h"
#include "train/restored_model.h"
#include "train/sampler.h"

struct generator {
    struct restored_model model;
    struct sampler_options sampler;
    struct matmul *to_logits;
    int32_t *window; /* [context]: the tokens that the model sees */
    void *logits_there; /* the backend's; acc */
    float *logits;
    double *scratch;
};

static size_t logits_bytes(const struct restored_model *m)
{
    return (size_t)m->vocabulary * dtype_size(m->backend->acc);
}

static cairn_err generator_prepare(struct generator *g)
{
    const struct restored_model *m = &g->model;
    if (strcmp(m->tokenizer, "bytes") != 0)
        return FAIL(CAIRN_EUNSUPPORTED, "the checkpoint's tokenizer is '%s'; only 'bytes' is known", m->tokenizer);
    const struct matmul_desc desc = {.m = 1, .n = m->vocabulary, .k = m->config.model.width, .transpose_b = true, .c_is_acc = true};
    TRY(m->backend->table->matmul_create(m->backend, &desc, &g->to_logits));
    g->window = calloc((size_t)m->config.model.context, sizeof *g->window);
    g->logits_there = m->backend->table->alloc(m->backend, logits_bytes(m));
    g->logits = calloc((size_t)m->vocabulary, dtype_size(DTYPE_F64));
    g->scratch = calloc((size_t)m->vocabulary, sizeof *g->scratch);
    return g->window && g->logits_there && g->logits && g->scratch ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory to generate");
}

static void generator_close(struct generator *g)
{
    struct backend *backend = g->model.backend;
    if (g->to_logits)
        backend->table->matmul_destroy(g->to_logits);
    if (g->logits_there)
        backend->table->free(backend, g->logits_there, logits_bytes(&g->model));
    free(g->logits);
    free(g->window);
    free(g->scratch);
    restored_model_close(&g->model);
}

/* The token after the LENGTH tokens of TEXT; the model sees the last of them, as many as its context holds. */
static cairn_err next_token(struct generator *g, const unsigned char *text, int64_t length, int64_t position, int64_t *token)
{
    struct restored_model *m = &g->model;
    int64_t context = m->config.model.context, width = m->config.model.width;
    int64_t seen = length < context ? length : context;
    for (int64_t i = 0; i < context; i++) /* what comes after has no influence: attention is causal */
        g->window[i] = i < seen ? text[length - seen + i] : 0;
    TRY(graph_forward(m->graph, g->window, NULL));
    const char *hidden = graph_tensor_data(m->graph, m->hidden);
    const char *last = hidden + (size_t)((seen - 1) * width) * dtype_size(m->backend->act);
    const char *table = (const char *)m->weights.compute;
    for (int i = 0; i < m->weights.count; i++)
        if (strcmp(m->weights.parameters[i].name, m->config.model.tied ? "token_embedding" : "head.weight") == 0)
            table += (size_t)m->weights.parameters[i].offset * dtype_size(m->backend->act);
    m->backend->table->matmul_run(g->to_logits, g->logits_there, last, table, NULL);
    m->backend->table->download(m->backend, g->logits, g->logits_there, logits_bytes(m));
    TRY(m->backend->table->finish(m->backend));
    int64_t known = m->vocabulary < 256 ? m->vocabulary : 256; /* a padded vocabulary has tokens that stand for no byte */
    if (m->backend->acc == DTYPE_F64)
        for (int64_t i = 0; i < known; i++)
            g->logits[i] = (float)((const double *)(const void *)g->logits)[i];
    *token = sampler_choose(&g->sampler, g->logits, known, position, g->scratch);
    return CAIRN_OK;
}

static cairn_err generate(struct generator *g, const char *prompt, int64_t tokens)
{
    int64_t length = (int64_t)strlen(prompt);
    unsigned char *text = malloc((size_t)(length + tokens + 1));
    if (!text)
        return FAIL(CAIRN_ENOMEM, "no memory for the text");
    memcpy(text, prompt, (size_t)length);
    if (length == 0)
        text[length++] = '\n'; /* the model needs something to go on from */
    fwrite(prompt, 1, strlen(prompt), stdout);
    cairn_err err = CAIRN_OK;
    for (int64_t i = 0, token; i < tokens; i++) {
        TRY_GOTO(err, next_token(g, text, length, i, &token), done);
        text[length++] = (unsigned char)token;
        putchar((int)token);
        fflush(stdout);
    }
    putchar('\n');
    if (ferror(stdout))
        err = FAIL(CAIRN_ESYS, "cannot write the text");
done:
    free(text);
    return err;
}

int cmd_generate(int argc, char **argv)
{
    const char *prompt = "";
    long tokens = 200, top_k = 0, seed = 1;
    double temperature = 0.8;
    const struct option_spec options[] = {
        {'p', "prompt", OPTION_STRING, &prompt, "TEXT", "the text to go on from"},
        {'n', "tokens", OPTION_INT, &tokens, "N", "how many tokens to make (200)"},
        {'t', "temperature", OPTION_REAL, &temperature, "T", "0: always the likeliest token; 1: as the model has it (0.8)"},
        {'k', "top-k", OPTION_INT, &top_k, "K", "choose among the K likeliest tokens only (0: all)"},
        {'s', "seed", OPTION_INT, &seed, "N", "another seed, another text (1)"},
        {0}};
    const struct command_spec spec = {"cairn generate CHECKPOINT [options] [key=value ...]",
                                      "Prints text that the model in CHECKPOINT (its folder, or a run's folder: the newest) goes on with.",
                                      options, "key=value sets a config key for this run, e.g. precision=bfloat16 or threads=4."};
    int exit_code;
    if (!command_begin(&spec, &argc, argv, &exit_code))
        return exit_code;
    if (argc < 2)
        return command_usage_failed(&spec, "no checkpoint given");
    if (tokens < 0 || top_k < 0 || temperature < 0)
        return command_failed(FAIL(CAIRN_ECONFIG, "--tokens, --top-k and --temperature cannot be negative"));
    struct job *job;
    struct mesh *mesh;
    cairn_err err = job_open(&job);
    if (err)
        return command_failed(err);
    TRY_GOTO(err, mesh_open(job, &mesh), left);
    if (mesh->size > 1) {
        err = FAIL(CAIRN_ECONFIG, "generate runs on one rank, not %d", mesh->size);
        goto left;
    }
    struct generator g = {.sampler = {temperature, top_k, (uint64_t)seed}};
    TRY_GOTO(err, restored_model_open(mesh, job, argv[1], argc - 2, argv + 2, 1, false, &g.model), left);
    err = generator_prepare(&g);
    if (!err)
        err = generate(&g, prompt, tokens);
    generator_close(&g);
left:
    exit_code = EXIT_CODE_DONE;
    if (err)
        exit_code = job_rank(job) == 0 ? command_failed(err) : EXIT_CODE_FAILED;
    job_leave(job, exit_code);
}
