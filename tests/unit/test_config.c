#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/config.h"
#include "base/config_table.h"

#define PATH "data: {path: x.h5}\n" /* the one key that must be given; takes line 1 of most texts here */

static cairn_err load(struct config *config, const char *text)
{
    return config_load(config, "dir/gpt.yaml", text, 0, NULL);
}

static void expect_error(const char *text, const char *message)
{
    struct config config;
    cairn_err err = load(&config, text);
    cr_assert_eq(err, CAIRN_ECONFIG, "no error for:\n%s", text);
    cr_assert_str_eq(cairn_err_message(), message);
}

static void expect_override_error(char *override, const char *message)
{
    struct config config;
    cr_assert_eq(config_load(&config, "gpt.yaml", PATH, 1, &override), CAIRN_ECONFIG, "no error for %s", override);
    cr_assert_str_eq(cairn_err_message(), message);
}

Test(config, defaults)
{
    struct config c;
    cr_assert_eq(load(&c, PATH), CAIRN_OK, "%s", cairn_err_message());
    cr_assert_str_eq(c.name, "gpt");
    cr_assert_str_eq(c.run_dir, "runs/gpt");
    cr_assert_str_eq(c.data.path, "x.h5");
    cr_assert_str_eq(c.model.family, "gpt");
    cr_assert_str_eq(c.instruction_set, "auto");
    cr_assert(c.steps == 1000 && c.seed == 1 && c.threads == 0);
    cr_assert(c.device == DEVICE_AUTO && c.precision == PRECISION_FLOAT32);
    cr_assert(c.batch.microbatches == 8 && c.batch.samples == 4);
    cr_assert(c.model.layers == 4 && c.model.width == 256 && c.model.heads == 4 && c.model.context == 128);
    cr_assert(c.model.vocabulary == 0 && c.model.tied && c.model.dropout == 0);
    cr_assert(c.optimizer.learning_rate == 1e-3 && c.optimizer.min_learning_rate == 1e-4 && c.optimizer.warmup_steps == 100);
    cr_assert(c.optimizer.beta1 == .9 && c.optimizer.beta2 == .95 && c.optimizer.epsilon == 1e-8);
    cr_assert(c.optimizer.weight_decay == .1 && c.optimizer.clip_norm == 1 && c.optimizer.decay_steps == 0);
    cr_assert(c.optimizer.rounding == ROUNDING_NEAREST);
    cr_assert(c.validation.every == 100 && c.validation.microbatches == 8 && c.log.every == 10);
    cr_assert(c.checkpoint.every == 100 && c.checkpoint.keep == 3 && c.checkpoint.on_full == ON_FULL_CONTINUE);
    cr_assert(c.supervise.launcher == LAUNCHER_AUTO && c.supervise.mpi == CONFIG_MPI_PMIX && c.supervise.ranks == 0);
    cr_assert(c.supervise.min_ranks == 1 && c.supervise.max_restarts == 3 && c.supervise.heartbeat_seconds == 1);
    cr_assert(c.supervise.silent_seconds == 5 && c.supervise.hang_factor == 20 && c.supervise.hang_seconds == 10);
    config_free(&c);
}

/* The enums of config.h are indices into the table's names. */
Test(config, choices_follow_the_enums)
{
    struct config c;
    cr_assert_eq(load(&c, PATH "device: reference\nprecision: float64\ncheckpoint: {on_full: stop}\n"
                           "supervise: {launcher: mpiexec, mpi: pmi2}\n"), CAIRN_OK);
    cr_assert(c.device == DEVICE_REFERENCE && c.precision == PRECISION_FLOAT64 && c.checkpoint.on_full == ON_FULL_STOP);
    cr_assert(c.supervise.launcher == LAUNCHER_MPIEXEC && c.supervise.mpi == CONFIG_MPI_PMI2);
    config_free(&c);
}

Test(config, derived_defaults)
{
    struct config c;
    char *overrides[] = {"steps=20", "optimizer.learning_rate=1e-5"};
    cr_assert_eq(config_load(&c, "/a.b/my run.v2.yaml", PATH, 2, overrides), CAIRN_OK, "%s", cairn_err_message());
    cr_assert_str_eq(c.name, "my-run.v2");
    cr_assert_eq(c.optimizer.warmup_steps, 20);
    cr_assert_eq(c.optimizer.min_learning_rate, 1e-5);
    config_free(&c);
    cr_assert_eq(config_load(&c, "-", PATH, 0, NULL), CAIRN_OK);
    cr_assert_str_eq(c.run_dir, "runs/run");
    config_free(&c);
    cr_assert_eq(config_load(&c, ".yaml", PATH "run_dir: /scratch/x\n", 0, NULL), CAIRN_OK);
    cr_assert_str_eq(c.name, "run");
    cr_assert_str_eq(c.run_dir, "/scratch/x");
    config_free(&c);
}

Test(config, sections_without_keys)
{
    struct config c;
    cr_assert_eq(load(&c, "# all commented out\nmodel:\n#  width: 4\n" PATH), CAIRN_OK, "%s", cairn_err_message());
    config_free(&c);
}

Test(config, empty_file_lacks_only_the_path)
{
    const char *message = "dir/gpt.yaml: data.path must be given: the dataset to train on (see 'cairn data import --help')";
    expect_error("", message);
    expect_error("# nothing\n", message);
    expect_error("---\n...\n", message);
    expect_error("~", message);
    struct config c;
    char *path[] = {"data.path=x.h5"};
    cr_assert_eq(config_load(&c, "gpt.yaml", "", 1, path), CAIRN_OK);
    config_free(&c);
}

Test(config, unknown_keys)
{
    expect_error(PATH "model:\n  layer: 3\n", "dir/gpt.yaml:3:3: unknown key 'model.layer'; did you mean 'model.layers'?");
    expect_error(PATH "modle:\n  layers: 3\n", "dir/gpt.yaml:2:1: unknown key 'modle'; did you mean 'model'?");
    expect_error(PATH "layers: 3\n", "dir/gpt.yaml:2:1: unknown key 'layers'; did you mean 'model.layers'?");
    expect_error(PATH "model: {learning_rate: 3}\n",
                 "dir/gpt.yaml:2:9: unknown key 'model.learning_rate'; did you mean 'optimizer.learning_rate'?");
    expect_error(PATH "model.layers: 3\n", "dir/gpt.yaml:2:1: unknown key 'model.layers'; write 'layers' under 'model:'");
    expect_error(PATH "elephant: 3\n", "dir/gpt.yaml:2:1: unknown key 'elephant'; 'cairn config --help' lists all");
    expect_error(PATH "<<: 3\n", "dir/gpt.yaml:2:1: unknown key '<<'; 'cairn config --help' lists all");
    expect_error(PATH "? [a]\n: 3\n", "dir/gpt.yaml:1:1: expected the name of a key");
}

Test(config, wrong_types)
{
    expect_error(PATH "model:\n  width:  wide\n",
                 "dir/gpt.yaml:3:11: model.width: expected a whole number from 1 to 65536, found 'wide'");
    expect_error(PATH "model: {width: 2.5}\n",
                 "dir/gpt.yaml:2:16: model.width: expected a whole number from 1 to 65536, found '2.5'");
    expect_error(PATH "model: {width: \"256\"}\n",
                 "dir/gpt.yaml:2:16: model.width: expected a whole number from 1 to 65536, found the text \"256\"");
    expect_error(PATH "model: {width: }\n", "dir/gpt.yaml:2:9: model.width: expected a whole number from 1 to 65536, found nothing");
    expect_error(PATH "model: {width: [1]}\n", "dir/gpt.yaml:2:9: model.width: expected a whole number from 1 to 65536, found a list");
    expect_error(PATH "seed: {a: 1}\n", "dir/gpt.yaml:2:1: seed: expected a whole number from 0, found a section");
    expect_error(PATH "model: 7\n", "dir/gpt.yaml:2:8: model: expected a section of keys, found '7'");
    expect_error(PATH "model: [1, 2]\n", "dir/gpt.yaml:2:1: model: expected a section of keys, found a list");
    expect_error(PATH "model: {tied: yes}\n", "dir/gpt.yaml:2:15: model.tied: expected true or false, found 'yes'");
    expect_error(PATH "model: {family: bert}\n", "dir/gpt.yaml:2:17: model.family: expected gpt, found 'bert'");
    expect_error(PATH "device: gpu\n", "dir/gpt.yaml:2:9: device: expected auto, cpu, cuda or reference, found 'gpu'");
    expect_error(PATH "name: ~\n", "dir/gpt.yaml:2:7: name: expected text, found nothing");
    expect_error(PATH "name: ''\n", "dir/gpt.yaml:2:7: name: expected text, found nothing");
    expect_error("- a\n- b\n", "dir/gpt.yaml:1:1: expected keys with values, found a list");
    expect_error("gpt\n", "dir/gpt.yaml:1:1: expected keys with values, found 'gpt'");
}

Test(config, numbers)
{
    static const char *const good[] = {"1e-3", "0.001", ".001", "1E-3", "+1.e-3"};
    static const char *const bad[] = {"1_0", "0x1p-10", "nan", "inf", ".inf", "1e", "1e+", "-1e-3", "1e400", "0", "1,5", "1 000", "--1"};
    struct config c;
    char text[128];
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        snprintf(text, sizeof text, PATH "optimizer: {learning_rate: %s}\n", good[i]);
        cr_assert_eq(load(&c, text), CAIRN_OK, "%s: %s", good[i], cairn_err_message());
        cr_assert_eq(c.optimizer.learning_rate, 1e-3);
        config_free(&c);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char override[64];
        char *overrides[] = {override};
        snprintf(override, sizeof override, "optimizer.learning_rate=%s", bad[i]);
        cr_assert_eq(config_load(&c, "x", PATH, 1, overrides), CAIRN_ECONFIG, "%s was taken", bad[i]);
    }
}

Test(config, ranges)
{
    expect_error(PATH "model: {layers: 0}\n", "dir/gpt.yaml:2:17: model.layers: expected a whole number from 1 to 4096, found '0'");
    expect_error(PATH "seed: -1\n", "dir/gpt.yaml:2:7: seed: expected a whole number from 0, found '-1'");
    expect_error(PATH "seed: 9223372036854775808\n",
                 "dir/gpt.yaml:2:7: seed: expected a whole number from 0, found '9223372036854775808'");
    expect_error(PATH "model: {dropout: 1}\n", "dir/gpt.yaml:2:18: model.dropout: expected a number from 0 to below 1, found '1'");
    expect_error(PATH "optimizer: {epsilon: 0}\n",
                 "dir/gpt.yaml:2:22: optimizer.epsilon: expected a number from 1e-30 to 1, found '0'");
    struct config c;
    cr_assert_eq(load(&c, PATH "seed: 9223372036854775807\n"), CAIRN_OK, "%s", cairn_err_message());
    cr_assert_eq(c.seed, INT64_MAX);
    config_free(&c);
}

Test(config, duplicates)
{
    expect_error(PATH "seed: 1\nseed: 2\n", "dir/gpt.yaml:3:1: seed: given twice, first in line 2");
    expect_error(PATH "model:\n  width: 8\n  width: 8\n", "dir/gpt.yaml:4:3: model.width: given twice, first in line 3");
    expect_error(PATH "model:\n  width: 8\nmodel:\n  layers: 1\n", "dir/gpt.yaml:4:1: model: given twice, first in line 2");
}

Test(config, yaml_errors)
{
    expect_error(PATH "model: {width: 8\n", "dir/gpt.yaml:3:1: not valid YAML: missing comma in flow mapping");
    expect_error(PATH "name: \"x\n", "dir/gpt.yaml:2:8: not valid YAML: double-quoted scalar without closing quote");
    expect_error(PATH "model:\n\twidth: 8\n", "dir/gpt.yaml:3:1: not valid YAML: tab character may not be used as indentation");
    expect_error(PATH "seed: 1: 2\n", "dir/gpt.yaml:2:8: not valid YAML: invalid nested block mapping on the same line");
    expect_error(PATH "---\nseed: 1\n", "dir/gpt.yaml:3:1: a second document; a config is one");
    expect_error(PATH "name: *x\n", "dir/gpt.yaml:2:7: name: aliases are not taken; write the value itself");
    expect_error(PATH "seed: !!int 4\n", "dir/gpt.yaml:2:13: seed: tags are not taken; write the value alone");
    expect_error(PATH "name: a\xff\n", "dir/gpt.yaml:2:8: the byte 0xff is not UTF-8");
    expect_error(PATH "name: \"a\\0b\"\n", "dir/gpt.yaml:2:7: name: the value contains a zero byte");
}

Test(config, keys_that_do_not_fit)
{
    expect_error(PATH "model: {width: 10, heads: 3}\n", "dir/gpt.yaml:2:27: model.heads: 3 does not divide model.width, 10");
    expect_error(PATH "model: {width: 10}\n", "dir/gpt.yaml:2:16: model.heads: 4 does not divide model.width, 10");
    expect_error(PATH "optimizer: {min_learning_rate: 1}\n",
                 "dir/gpt.yaml:2:32: optimizer.min_learning_rate: 1 is above optimizer.learning_rate, 0.001");
    expect_error(PATH "optimizer: {warmup_steps: 1001}\n", "dir/gpt.yaml:2:27: optimizer.warmup_steps: 1001 is above steps, 1000");
    expect_error(PATH "optimizer: {warmup_steps: 9, decay_steps: 8}\n",
                 "dir/gpt.yaml:2:27: optimizer.warmup_steps: 9 is above optimizer.decay_steps, 8");
    expect_error(PATH "supervise: {ranks: 9}\n",
                 "dir/gpt.yaml:2:20: supervise.ranks: 9 ranks cannot share 8 microbatches (batch.microbatches)");
    expect_error(PATH "supervise: {ranks: 2, min_ranks: 3}\n", "dir/gpt.yaml:2:34: supervise.min_ranks: 3 is above supervise.ranks, 2");
    expect_error(PATH "batch: {microbatches: 2}\nsupervise: {min_ranks: 3}\n",
                 "dir/gpt.yaml:3:24: supervise.min_ranks: 3 ranks cannot share 2 microbatches (batch.microbatches)");
    expect_error(PATH "parallel: {data: 2, pipeline: 2}\nsupervise: {min_ranks: 5}\n",
                 "dir/gpt.yaml:3:24: supervise.min_ranks: 5 is above the 4 ranks of the layout (parallel.data is 2)");
    expect_error(PATH "supervise: {heartbeat_seconds: 9}\n",
                 "dir/gpt.yaml:2:32: supervise.silent_seconds: 5 is not above supervise.heartbeat_seconds, 9");
    expect_error(PATH "name: a/b\n",
                 "dir/gpt.yaml:2:7: name: expected at most 64 letters, digits, '.', '_' and '-', no '.' first, found 'a/b'");
    expect_error(PATH "steps: 4611686018427387903\n",
                 "dir/gpt.yaml:2:8: steps: 4611686018427387903 times batch.microbatches times batch.samples does not fit in 64 bits");
}

Test(config, servers_take_no_microbatches)
{
    struct config c;
    const char *fits = PATH "batch: {microbatches: 2}\nparallel: {sync: server, servers: 2, data: 2}\nsupervise: {ranks: 4, min_ranks: 4}\n";
    cr_assert_eq(load(&c, fits), CAIRN_OK, "%s", cairn_err_message());
    config_free(&c);
    expect_error(PATH "batch: {microbatches: 2}\nparallel: {sync: server, servers: 2}\nsupervise: {ranks: 5}\n",
                 "dir/gpt.yaml:4:20: supervise.ranks: 5 ranks cannot share 2 microbatches (batch.microbatches)");
    expect_error(PATH "parallel: {sync: server, data: 2}\nsupervise: {min_ranks: 4}\n",
                 "dir/gpt.yaml:3:24: supervise.min_ranks: 4 is above the 3 ranks of the layout (parallel.data is 2)");
}

Test(config, overrides)
{
    struct config c;
    char *overrides[] = {"model.width=512", "data.path=a=b c.h5", "model.tied=false", "model.width=1024", "seed=7"};
    cr_assert_eq(config_load(&c, "gpt.yaml", PATH "seed: 3\nmodel: {layers: 2}\n", 5, overrides), CAIRN_OK, "%s", cairn_err_message());
    cr_assert(c.model.width == 1024 && c.model.layers == 2 && !c.model.tied && c.seed == 7);
    cr_assert_str_eq(c.data.path, "a=b c.h5");
    config_free(&c);
    expect_override_error("model.width=wide", "command line: model.width: expected a whole number from 1 to 65536, found 'wide'");
    expect_override_error("model.width=", "command line: model.width: expected a whole number from 1 to 65536, found nothing");
    expect_override_error("model.widht=4", "command line: unknown key 'model.widht'; did you mean 'model.width'?");
    expect_override_error("model.width", "command line: expected key=value, found 'model.width'");
    expect_override_error("=3", "command line: expected key=value, found '=3'");
    expect_override_error(".seed=3", "command line: unknown key '.seed'; did you mean 'seed'?");
    expect_override_error("model=3", "command line: model: is a section; give one of its keys as model.KEY=VALUE");
    expect_override_error("model.heads=3", "command line: model.heads: 3 does not divide model.width, 256");
    expect_override_error("name=\xff", "command line: name: the value is not UTF-8");
}

/* When a key of the file and one of the command line do not fit, the command line is what just changed. */
Test(config, blames_the_command_line_first)
{
    struct config c;
    char *overrides[] = {"model.width=10"};
    cr_assert_eq(config_load(&c, "gpt.yaml", PATH "model: {heads: 4}\n", 1, overrides), CAIRN_ECONFIG);
    cr_assert_str_eq(cairn_err_message(), "command line: model.heads: 4 does not divide model.width, 10");
}

Test(config, long_values_are_cut_in_messages)
{
    char text[4000] = PATH "seed: ";
    size_t used = strlen(text);
    memset(text + used, 'x', sizeof text - used - 1);
    struct config c;
    cr_assert_eq(load(&c, text), CAIRN_ECONFIG);
    cr_assert(strlen(cairn_err_message()) < 200, "%s", cairn_err_message());
    cr_assert(strstr(cairn_err_message(), "xxx...'"));
}

Test(config, files)
{
    struct config c;
    cr_assert_eq(config_load(&c, "/nonexistent/gpt.yaml", NULL, 0, NULL), CAIRN_ECONFIG);
    cr_assert_str_eq(cairn_err_message(), "cannot open /nonexistent/gpt.yaml: No such file or directory");
    char *text;
    cr_assert_eq(config_read_file("/nonexistent/gpt.yaml", &text), CAIRN_ECONFIG);
    cr_assert_eq(config_read_file("/dev/zero", &text), CAIRN_ECONFIG);
    cr_assert_str_eq(cairn_err_message(), "/dev/zero: larger than 1 MiB; this is not a config");
    cr_assert_eq(config_read_file("/proc/self/cmdline", &text), CAIRN_ECONFIG);
    cr_assert_eq(config_read_file("/", &text), CAIRN_ECONFIG);
    cr_assert_str_eq(cairn_err_message(), "cannot read /: Is a directory");
    char path[] = "/tmp/cairn-config-XXXXXX";
    int fd = mkstemp(path);
    cr_assert_eq(write(fd, PATH "seed: 5\n", sizeof PATH + 7), (ssize_t)sizeof PATH + 7);
    close(fd);
    cr_assert_eq(config_load(&c, path, NULL, 0, NULL), CAIRN_OK, "%s", cairn_err_message());
    cr_assert_eq(c.seed, 5);
    config_free(&c);
    unlink(path);
}

static void expect_auto(const char *text, int count, char *const *overrides, const char *list)
{
    struct config c;
    cr_assert_eq(config_load(&c, "gpt.yaml", text, count, overrides), CAIRN_OK, "%s", cairn_err_message());
    cr_expect_str_eq(c.parallel.automatic, list, "%s: %s", text, c.parallel.automatic);
    cr_expect_eq(config_chooses(&c, NULL), strcmp(list, "none") != 0);
    config_free(&c);
}

#define ALL_AUTO "data tensor context pipeline expert chunks schedule zero sequence recompute"

Test(config, auto_chooses_what_is_not_given)
{
    char *automatic[] = {"parallel=auto"}, *tensor[] = {"parallel.tensor=2"}, *by_name[] = {"parallel.tensor=2", "parallel.auto=tensor"};
    expect_auto(PATH "parallel: auto\n", 0, NULL, ALL_AUTO);
    expect_auto(PATH, 1, automatic, ALL_AUTO);
    expect_auto(PATH, 0, NULL, "none");
    expect_auto(PATH "parallel: {auto: none}\n", 0, NULL, "none");
    expect_auto(PATH "parallel: {auto: all, tensor: 1, zero: 2, data: auto}\n", 0, NULL, "data context pipeline expert chunks schedule sequence recompute");
    expect_auto(PATH "parallel: {zero: 1}\n", 1, automatic, "data tensor context pipeline expert chunks schedule sequence recompute");
    expect_auto(PATH "parallel: auto\n", 1, tensor, "data context pipeline expert chunks schedule zero sequence recompute");
    /* as a run writes it down: what was chosen stands beside the list, and is not given */
    expect_auto(PATH "parallel: {auto: 'zero, tensor', tensor: 2, zero: 1}\n", 0, NULL, "tensor zero");
    expect_auto(PATH "parallel: {auto: tensor zero, tensor: 4, zero: 1}\n", 1, tensor, "zero");
    expect_auto(PATH "parallel: {zero: 1}\n", 2, by_name, "tensor");
    expect_error(PATH "parallel: off\n", "dir/gpt.yaml:2:11: parallel: expected auto or a section of keys, found 'off'");
    expect_error(PATH "parallel: {auto: all data}\n", "dir/gpt.yaml:2:18: parallel.auto: all stands alone, found 'all data'");
    expect_error(PATH "parallel: {auto: data none}\n", "dir/gpt.yaml:2:18: parallel.auto: none stands alone, found 'data none'");
    expect_error(PATH "parallel: {auto: data overlap}\n",
                 "dir/gpt.yaml:2:18: parallel.auto: expected all, none or keys that a planner chooses, found 'overlap'");
}

Test(config, auto_needs_no_ranks_that_were_chosen_before)
{
    expect_auto(PATH "batch: {microbatches: 2}\nsupervise: {ranks: 8}\nparallel: auto\n", 0, NULL, ALL_AUTO);
    expect_auto(PATH "parallel: {auto: data pipeline, data: 2, pipeline: 2}\nsupervise: {min_ranks: 5}\n", 0, NULL, "data pipeline");
}

/* Every field differs from its default here, with doubles that need all their digits. */
Test(config, round_trip)
{
    struct config a, b;
    char *overrides[] = {
        "name=null", "run_dir=/tmp/ü \"q\" \\ #: \t\xe2\x80\xa8 x", "seed=9223372036854775807", "steps=123456789012", "device=cpu",
        "precision=bfloat16", "float8=linear", "threads=3", "instruction_set=v3", "trace=true", "data.path=~", "data.prefetch=9", "batch.microbatches=16",
        "batch.samples=3", "model.layers=5", "model.width=99", "model.heads=11", "model.context=17", "model.vocabulary=300",
        "model.tied=false", "model.experts=6", "model.expert_choices=3", "model.capacity_factor=1.75", "model.balance_loss=0.02",
        "model.router_z_loss=0.001", "parallel.expert=3", "model.dropout=0.1234567890123456789", "optimizer.learning_rate=3.3333333333333333e-4",
        "optimizer.min_learning_rate=4.9406564584124654e-324", "optimizer.warmup_steps=7", "optimizer.decay_steps=77",
        "optimizer.beta1=0.30000000000000004", "optimizer.beta2=0.99999999999999989", "optimizer.epsilon=1.0000000000000003e-30",
        "optimizer.weight_decay=0.2", "optimizer.clip_norm=1e22", "optimizer.rounding=stochastic", "validation.every=3", "validation.microbatches=5", "log.every=2",
        "parallel.auto=tensor zero", "parallel.memory=77", "parallel.data=4", "parallel.tensor=3", "parallel.context=2", "parallel.pipeline=5", "parallel.chunks=6",
        "parallel.schedule=zero-bubble", "parallel.zero=2", "parallel.sequence=true", "parallel.recompute=block",
        "parallel.reduce=fast", "parallel.links=host", "algorithms=first", "parallel.overlap=false", "parallel.compress=powersgd", "parallel.compress_ratio=0.07",
        "parallel.compress_rank=9", "parallel.sync=local", "parallel.local_steps=5", "parallel.outer=nesterov", "parallel.outer_rate=0.3",
        "parallel.outer_momentum=0.5",
        "parallel.servers=3", "parallel.staleness=inf",
        "checkpoint.every=6", "checkpoint.keep=0", "checkpoint.on_full=stop", "supervise.launcher=srun", "supervise.mpi=pmi2",
        "supervise.ranks=4", "supervise.min_ranks=2", "supervise.max_restarts=8", "supervise.heartbeat_seconds=0.7",
        "supervise.start_seconds=33", "supervise.silent_seconds=2.1", "supervise.hang_factor=3.3", "supervise.hang_seconds=100000000e-4"};
    int count = sizeof overrides / sizeof overrides[0];
    cr_assert(count >= config_key_count - 1); /* model.family has one choice alone */
    cr_assert_eq(config_load(&a, "gpt.yaml", "", count, overrides), CAIRN_OK, "%s", cairn_err_message());
    char *text = config_to_yaml(&a);
    cr_assert_not_null(text);
    cr_assert_eq(config_load(&b, "other.yaml", text, 0, NULL), CAIRN_OK, "%s in\n%s", cairn_err_message(), text);
    for (int i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];
        const void *x = config_field(&a, key), *y = config_field(&b, key);
        if (key->kind == CONFIG_STRING)
            cr_assert_str_eq(*(char *const *)x, *(char *const *)y, "%s differs", key->name);
        else
            cr_assert_eq(memcmp(x, y, key->kind == CONFIG_BOOL ? sizeof(bool) : key->kind == CONFIG_CHOICE ? sizeof(int) : 8), 0,
                         "%s.%s differs", key->section, key->name);
    }
    free(text);
    config_free(&a);
    config_free(&b);
}

static char *printed(void (*print)(FILE *out))
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    print(out);
    fclose(out);
    return text;
}

Test(config, changes_that_decide_the_result)
{
    struct config before, now;
    char *overrides[] = {"seed=2", "model.dropout=0.1", "optimizer.learning_rate=0.01", "batch.samples=2", "precision=bfloat16", "float8=linear", "log.every=7",
                         "threads=3", "run_dir=elsewhere", "data.path=y.h5"};
    cr_assert_eq(load(&before, PATH), CAIRN_OK);
    cr_assert_eq(config_load(&now, "gpt.yaml", PATH, sizeof overrides / sizeof overrides[0], overrides), CAIRN_OK);
    char *changes = config_changes(&before, &now), *none = config_changes(&now, &now);
    cr_expect_str_eq(changes, "seed 2 (was 1), precision bfloat16 (was float32), float8 linear (was none), batch.samples 2 (was 4), model.dropout 0.1 (was 0), "
                              "optimizer.learning_rate 0.01 (was 0.001)");
    cr_expect_str_eq(none, "");
    free(changes);
    free(none);
    config_free(&before);
    config_free(&now);
}

Test(config, references_list_all_keys)
{
    char *plain = printed(config_print_reference), *roff = printed(config_print_roff);
    char name[CONFIG_NAME_SIZE], line[2 * CONFIG_NAME_SIZE];
    for (int i = 0; i < config_key_count; i++) {
        config_key_name(&config_keys[i], name);
        snprintf(line, sizeof line, "\n  %s\n", name);
        cr_assert(strstr(plain, line), "%s is not in the reference", name);
        snprintf(line, sizeof line, ".TP\n.B %s\n", name);
        cr_assert(strstr(roff, line), "%s is not in the man page", name);
        cr_assert(config_keys[i].help && *config_keys[i].help);
    }
    free(plain);
    free(roff);
}
