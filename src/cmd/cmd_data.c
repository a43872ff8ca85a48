#include <inttypes.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/exit_code.h"
#include "cmd/command.h"
#include "io/dataset.h"
#include "io/dataset_structure.h"
#include "io/dataset_verify.h"
#include "io/import_text.h"
#include "job/job.h"

static const char import_usage[] = "cairn data import text FILE... -o X.h5 [options]";
static const char info_usage[] = "cairn data info FILE [--json]";
static const char verify_usage[] = "cairn data verify FILE [--json]";

/* ---- import ---- */

/* Leaves nothing half made behind, then dies of the signal as if it had not been caught. */
static void clean_up_and_die(int signal_number)
{
    import_leftovers_remove();
    raise(signal_number);
}

static void catch_signals(void)
{
    static const int deadly[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action = {.sa_handler = clean_up_and_die, .sa_flags = (int)(SA_RESETHAND | SA_NODEFER)};
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof deadly / sizeof deadly[0]; i++)
        sigaction(deadly[i], &action, NULL);
}

static int import_over_ranks(struct job *job, const struct import_options *options)
{
    struct import_result result;
    bool first = job_rank(job) == 0;
    cairn_err err = import_text(job_comm(job), options, &result);
    if (err != CAIRN_OK && first)
        return command_failed(err);
    if (err != CAIRN_OK)
        return err == CAIRN_ECONFIG ? EXIT_CODE_USAGE : EXIT_CODE_FAILED;
    if (first)
        printf("%s: %" PRId64 " train tokens, %" PRId64 " validation tokens, %.1f MB in %.1f s (%.0f MB/s of text)\n", options->output,
               result.train_tokens, result.validation_tokens, (double)result.file_bytes * 1e-6, result.seconds,
               (double)(result.train_tokens + result.validation_tokens) * 1e-6 / result.seconds);
    fflush(stdout);
    return EXIT_CODE_DONE;
}

static int import_main(int argc, char **argv)
{
    const char *output = NULL;
    double validation = 0.01;
    long compress = 0, chunk = 0;
    bool force = false;
    const struct option_spec options[] = {
        {'o', "output", OPTION_STRING, &output, "FILE", "the dataset to make, X.h5"},
        {0, "validation", OPTION_REAL, &validation, "FRACTION", "part kept for validation, in blocks spread over the text (0.01)"},
        {0, "compress", OPTION_INT, &compress, "LEVEL", "deflate level 1 to 9 (0: none); smaller file, slower samples"},
        {0, "chunk", OPTION_INT, &chunk, "BYTES", "chunks of so many bytes (0: contiguous; 16384 when compressed)"},
        {0, "force", OPTION_FLAG, &force, NULL, "replace an existing file"},
        {0, NULL, OPTION_FLAG, NULL, NULL, NULL},
    };
    const struct command_spec spec = {
        import_usage,
        "Makes a dataset of text files, each byte a token. FILE may be - (standard input), and gzip files are unpacked.\n"
        "Under mpiexec or srun the ranks share the work; the file is the same whatever their number.", options,
        "What cannot be read at any place (standard input, pipes, gzip) is first unpacked beside the output: leave room for it."};
    int exit_code;
    if (!command_begin(&spec, &argc, argv, &exit_code))
        return exit_code;
    if (argc < 2 || strcmp(argv[1], "text") != 0)
        return command_usage_failed(&spec, argc < 2 ? "the kind of input is missing" : "the only kind of input is 'text'");
    if (argc < 3)
        return command_usage_failed(&spec, "no input file");
    if (!output)
        return command_usage_failed(&spec, "no output file: give -o X.h5");
    const struct import_options import = {.files = argv + 2, .file_count = argc - 2, .output = output, .validation = validation,
        .compress = (int)compress, .chunk_bytes = chunk, .force = force, .progress = true};
    struct job *job;
    cairn_err err = import_leftovers_prepare(&import);
    if (err == CAIRN_OK)
        err = job_open(&job);
    if (err != CAIRN_OK)
        return command_failed(err);
    catch_signals();
    job_leave(job, import_over_ranks(job, &import));
}

/* ---- info ---- */

static const char *storage_name(const struct split_structure *s)
{
    static const char *const names[] = {"empty", "contiguous", "chunked", "deflate", "other"};
    return s->storage == STORAGE_CONTIGUOUS && s->chunk_tokens > 0 ? "chunked" : names[s->storage];
}

static json_t *split_facts(const struct split_structure *s)
{
    return json_pack("{s:I, s:i, s:s, s:I, s:I}", "tokens", (json_int_t)s->tokens, "token_bytes", s->token_bytes, "storage",
                     storage_name(s), "chunk_tokens", (json_int_t)s->chunk_tokens, "checksum_block_bytes", (json_int_t)s->checksum_bytes);
}

static json_t *facts_of(const struct dataset *dataset)
{
    const struct dataset_structure *s = dataset_get_structure(dataset);
    char fingerprint[17];
    snprintf(fingerprint, sizeof fingerprint, "%016" PRIx64, dataset_fingerprint(dataset));
    return json_pack("{s:s, s:s, s:s, s:I, s:s, s:I, s:s, s:I, s:I, s:o, s:o}", "path", dataset_path(dataset), "kind", "tokens",
                     "tokenizer", s->tokenizer, "vocabulary", (json_int_t)s->vocabulary, "created_by", s->created_by, "file_bytes",
                     (json_int_t)s->file_bytes, "fingerprint", fingerprint, "source_files", (json_int_t)s->source_files, "source_bytes",
                     (json_int_t)s->source_bytes, "train", split_facts(&s->split[SPLIT_TRAIN]), "validation",
                     split_facts(&s->split[SPLIT_VALIDATION]));
}

static void print_split(const char *name, const struct split_structure *s)
{
    printf("%-12s %" PRId64 " tokens of %d byte%s, %s", name, s->tokens, s->token_bytes, s->token_bytes == 1 ? "" : "s", storage_name(s));
    if (s->chunk_tokens > 0)
        printf(" (%" PRId64 " chunks of %" PRId64 " tokens)", s->chunks, s->chunk_tokens);
    printf("%s\n", s->checksum_bytes || s->tokens == 0 ? "" : ", no checksums");
}

static void print_facts(const struct dataset *dataset)
{
    const struct dataset_structure *s = dataset_get_structure(dataset);
    printf("%-12s %s\n%-12s %.1f MB\n%-12s tokens (%s, vocabulary %" PRId64 ")\n", "dataset", dataset_path(dataset), "size",
           (double)s->file_bytes * 1e-6, "kind", s->tokenizer, s->vocabulary);
    print_split("train", &s->split[SPLIT_TRAIN]);
    print_split("validation", &s->split[SPLIT_VALIDATION]);
    if (s->source_files >= 0)
        printf("%-12s %" PRId64 " file%s, %.1f MB\n", "source", s->source_files, s->source_files == 1 ? "" : "s", (double)s->source_bytes * 1e-6);
    printf("%-12s %s\n%-12s %016" PRIx64 "\n", "made by", s->created_by[0] ? s->created_by : "not told", "fingerprint",
           dataset_fingerprint(dataset));
}

static int show_facts(struct dataset *dataset, bool json)
{
    if (json)
        return command_print_json(facts_of(dataset));
    print_facts(dataset);
    return EXIT_CODE_DONE;
}

/* What info and verify share: one dataset, opened alone. */
static int look_at_file(int argc, char **argv, const char *usage, const char *summary, int (*look)(struct dataset *dataset, bool json))
{
    bool json = false;
    const struct option_spec options[] = {
        {0, "json", OPTION_FLAG, &json, NULL, "print as JSON"},
        {0, NULL, OPTION_FLAG, NULL, NULL, NULL},
    };
    const struct command_spec spec = {usage, summary, options, NULL};
    int exit_code;
    if (!command_begin(&spec, &argc, argv, &exit_code))
        return exit_code;
    if (argc != 2)
        return command_usage_failed(&spec, "expected one file");
    struct dataset *dataset;
    cairn_err err = dataset_open_alone(argv[1], &dataset);
    if (err != CAIRN_OK)
        return command_failed(err);
    exit_code = look(dataset, json);
    dataset_close(dataset);
    return exit_code;
}

static int info_main(int argc, char **argv)
{
    return look_at_file(argc, argv, info_usage, "Prints what a dataset holds.", show_facts);
}

/* ---- verify ---- */

static void print_damage(const struct dataset_damage *d, void *context)
{
    (void)context;
    char where[96] = "";
    if (d->file_begin >= 0)
        snprintf(where, sizeof where, ", bytes %" PRId64 " to %" PRId64 " of the file", d->file_begin, d->file_end - 1);
    printf("%s/tokens block %" PRId64 " (tokens %" PRId64 " to %" PRId64 "%s): %s\n", split_name(d->split), d->block, d->first_token,
           d->first_token + d->tokens - 1, where, d->message);
}

static void collect_damage(const struct dataset_damage *d, void *context)
{
    json_array_append_new(context, json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:s}", "split", split_name(d->split) + 1, "block",
                          (json_int_t)d->block, "first_token", (json_int_t)d->first_token, "tokens", (json_int_t)d->tokens, "file_begin",
                          (json_int_t)d->file_begin, "file_end", (json_int_t)d->file_end, "message", d->message));
}

static int verify(struct dataset *dataset, bool json)
{
    struct dataset_verdict verdict;
    json_t *damages = json ? json_array() : NULL;
    cairn_err err = dataset_verify(dataset, true, json ? collect_damage : print_damage, damages, &verdict);
    if (err != CAIRN_OK) {
        json_decref(damages);
        return command_failed(err);
    }
    int exit_code = EXIT_CODE_DONE;
    if (json)
        exit_code = command_print_json(json_pack("{s:s, s:I, s:I, s:b, s:o}", "path", dataset_path(dataset), "blocks",
                                                 (json_int_t)verdict.blocks, "damaged", (json_int_t)verdict.damaged, "checksums",
                                                 verdict.checksums, "damages", damages));
    else if (verdict.damaged > 0)
        printf("%s: %" PRId64 " of %" PRId64 " blocks are damaged\n", dataset_path(dataset), verdict.damaged, verdict.blocks);
    else
        printf("%s: %" PRId64 " blocks are sound%s\n", dataset_path(dataset), verdict.blocks,
               verdict.checksums ? "" : " as far as can be told: the file has no checksums");
    return verdict.damaged > 0 ? EXIT_CODE_FAILED : exit_code;
}

static int verify_main(int argc, char **argv)
{
    return look_at_file(argc, argv, verify_usage,
        "Reads all of a dataset and compares it with its checksums. Exit code 0: sound; 1: damaged, each block with its place.", verify);
}

/* ---- the command ---- */

int cmd_data(int argc, char **argv)
{
    static const struct subcommand subcommands[] = {
        {"import", import_usage, import_main},
        {"info", info_usage, info_main},
        {"verify", verify_usage, verify_main},
    };
    return command_dispatch("data", "Makes and inspects datasets; each subcommand tells more with --help.", subcommands,
                            sizeof subcommands / sizeof subcommands[0], argc, argv);
}
