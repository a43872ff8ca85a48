/* cairn train: the program that every rank runs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/config.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "ckpt/checkpoint.h"
#include "cmd/command.h"
#include "job/job.h"
#include "mesh/mesh.h"
#include "server/roles.h"
#include "train/trainer.h"

/* Rank 0 reads the file, all ranks get the text: one reader, and one config however the file changes. */
static cairn_err share_config(struct mesh *mesh, const char *file, int count, char **overrides, struct config *config)
{
    char *text = NULL;
    int64_t length = 0;
    cairn_err err = CAIRN_OK;
    if (mesh->rank == 0) {
        err = config_read_file(file, &text);
        length = err ? 0 : (int64_t)strlen(text);
    }
    TRY(mesh_agree(mesh, err));
    TRY(mesh_broadcast(mesh, &length, sizeof length, 0));
    if (mesh->rank != 0)
        text = malloc((size_t)length + 1);
    TRY(mesh_agree(mesh, text ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for the config")));
    text[length] = 0;
    err = mesh_broadcast(mesh, text, length, 0);
    if (!err)
        err = config_load(config, file, text, count, overrides);
    free(text);
    return mesh_agree(mesh, err);
}

/* The last lines of a run that came to its end. */
static void report_end(const struct trainer *t, double seconds)
{
    char path[4096], hash[17];
    snprintf(path, sizeof path, "%s/step-%08lld", t->checkpoints, (long long)t->step);
    if (checkpoint_hash(path, "weights/", hash) == CAIRN_OK)
        printf("done: %lld steps, weights %s, checkpoint %s (%.1f s)\n", (long long)t->step, hash, path, seconds);
    else
        printf("done: %lld steps, checkpoint %s cannot be read back: %s\n", (long long)t->step, path, cairn_err_message());
    fflush(stdout);
}

static void report_stop(const struct trainer *t, const char *reason)
{
    reason = reason ? reason : "another rank was asked to";
    if (t->committed == t->step)
        log_info("stopped at the checkpoint of step %lld: %s", (long long)t->step, reason);
    else
        log_warning("stopped after step %lld, of which there is no checkpoint: %s; the newest is of step %lld", (long long)t->step, reason,
                    (long long)t->committed);
}

static cairn_err train(struct trainer *t, struct job *job, struct mesh *mesh, const struct config *config, struct roles_end *end)
{
    if (config->parallel.sync == SYNC_SERVER)
        return roles_train(t, job, mesh, config, end);
    *end = (struct roles_end){.tells = mesh->rank == 0};
    TRY(trainer_open(t, job, mesh, config));
    if (t->step >= config->steps && mesh->rank == 0)
        log_info("nothing to do: the checkpoint is of step %lld of %lld", (long long)t->step, (long long)config->steps);
    return trainer_run(t, &end->stopped);
}

/* Leaves with the exit code that fits ERR; an error that all ranks know of is told by rank 0 alone. */
static _Noreturn void leave_failed(struct job *job, const struct trainer *t, cairn_err err)
{
    /* When every checkpoint is broken, whether to begin anew is for people to say, not for an automatic restart. */
    bool all_broken = err == CAIRN_ECORRUPT && t && t->step == 0 && !t->restored;
    bool hopeless = err == CAIRN_ECONFIG || err == CAIRN_EUNSUPPORTED || all_broken;
    int code = hopeless ? EXIT_CODE_USAGE : EXIT_CODE_FAILED;
    if (t && t->failed_alone) {
        log_error("%s", cairn_err_message());
        job_abort(job, code, cairn_err_message());
    }
    if (job_rank(job) == 0)
        log_error("%s", cairn_err_message());
    job_leave_because(job, code, job_rank(job) == 0 ? cairn_err_message() : NULL);
}

int cmd_train(int argc, char **argv)
{
    const struct command_spec spec = {
        "cairn train CONFIG [key=value ...]",
        "The program that every rank of a training runs: started by 'cairn run', by srun --mpi=pmix, or by mpiexec. It goes on from\n"
        "the newest valid checkpoint in the run's folder.",
        NULL,
        "CONFIG is a YAML file ('cairn config --help' lists its keys), - for standard input; key=value sets a key over it.\n"
        "Exit code: 0 trained to the last step, 1 failed, 2 bad usage or config or\n"
        "no sound checkpoint left, 75 stopped at a checkpoint on a signal."};
    int exit_code;
    if (!command_begin(&spec, &argc, argv, &exit_code))
        return exit_code;
    if (argc < 2)
        return command_usage_failed(&spec, "no config given");
    struct job *job;
    struct mesh *mesh;
    cairn_err err = job_open(&job);
    if (err)
        return command_failed(err);
    err = mesh_open(job, &mesh);
    if (err)
        leave_failed(job, NULL, err);
    struct config config;
    err = share_config(mesh, argv[1], argc - 2, argv + 2, &config);
    if (err)
        leave_failed(job, NULL, err);
    err = mesh_agree(mesh, job_watchdog_start(job, config.supervise.heartbeat_seconds, config.supervise.hang_factor,
                                              config.supervise.hang_seconds));
    struct trainer trainer = {0};
    struct roles_end end;
    double begin = clock_seconds();
    if (!err)
        err = train(&trainer, job, mesh, &config, &end);
    if (err)
        leave_failed(job, &trainer, err);
    job_phase(job, "finish", trainer.step, 0);
    if (end.tells && end.stopped)
        report_stop(&trainer, job_stop_reason(job));
    else if (end.tells)
        report_end(&trainer, clock_seconds() - begin);
    mesh_barrier(mesh); /* under the watchdog, with heartbeats: rank 0 may read many gigabytes */
    trainer_close(&trainer);
    mesh_close(mesh);
    config_free(&config);
    job_leave(job, end.stopped ? EXIT_CODE_RESTART : EXIT_CODE_DONE);
}
