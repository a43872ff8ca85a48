#include "server/roles.h"

#include <stdio.h>
#include <stdlib.h>

#include "server/server.h"
#include "server/worker.h"
#include "train/parallel.h"

static int count_of(const char *variable)
{
    const char *text = getenv(variable);
    return text && *text ? atoi(text) : 0;
}

static cairn_err work(struct job *job, const struct config *config, const struct worker_place *place, struct roles_end *end)
{
    int exit_code = EXIT_CODE_FAILED;
    TRY(worker_run(job, config, place, &exit_code));
    end->stopped = exit_code == EXIT_CODE_RESTART;
    return CAIRN_OK;
}

static cairn_err serve(struct trainer *t, struct server *server, int workers, struct roles_end *end)
{
    cairn_err err = server_run(server, workers, &end->stopped);
    end->tells = t->mesh->rank == 0;
    if (err) /* what all servers know of, the first tells */
        t->failed_alone = end->tells || !server_failed_together(server);
    else
        server_close(server);
    return err;
}

/* A world of servers alone. */
static cairn_err serve_others(struct trainer *t, struct job *job, struct mesh *mesh, const struct config *config, int workers,
                              struct roles_end *end)
{
    struct server *server;
    struct layout layout;
    TRY(mesh_agree(mesh, parallel_layout(config, config->model.vocabulary, mesh->size + workers, &layout)));
    TRY(server_open(t, job, mesh, config, &server));
    if (mesh->rank == 0)
        job_report_servers(job, server_invitation(server));
    return serve(t, server, workers, end);
}

/* Servers and workers in one world. After the split no collective but the last spans them, so what fails fails alone. */
static cairn_err split(struct trainer *t, struct job *job, struct mesh *mesh, const struct config *config, struct roles_end *end)
{
    struct layout layout;
    struct mesh *own;
    struct server *server = NULL;
    char invitation[SERVER_INVITATION_SIZE] = "";
    TRY(mesh_agree(mesh, parallel_layout(config, config->model.vocabulary, mesh->size, &layout)));
    bool serves = mesh->rank < layout.servers;
    TRY(mesh_split(mesh, serves ? 0 : mesh->rank, &own));
    t->failed_alone = !serves || own->rank == 0;
    if (serves) {
        cairn_err err = server_open(t, job, own, config, &server);
        t->failed_alone = own->rank == 0;
        TRY(err);
        snprintf(invitation, sizeof invitation, "%s", server_invitation(server));
    }
    TRY(mesh_broadcast(mesh, invitation, sizeof invitation, 0));
    if (serves)
        return serve(t, server, layout.data, end);
    const struct worker_place place = {.self = own->world, .servers = invitation, .number = mesh->rank - layout.servers};
    return work(job, config, &place, end);
}

cairn_err roles_train(struct trainer *t, struct job *job, struct mesh *mesh, const struct config *config, struct roles_end *end)
{
    const char *servers = getenv("CAIRN_SERVERS");
    int workers = count_of("CAIRN_WORKERS");
    *end = (struct roles_end){0};
    *t = (struct trainer){.config = config, .job = job, .mesh = mesh, .committed = -1, .lock = -1};
    if (servers) {
        const struct worker_place place = {.self = mesh->world, .servers = servers, .number = job_number(job), .own = true};
        return work(job, config, &place, end);
    }
    if (workers > 0)
        return serve_others(t, job, mesh, config, workers, end);
    return split(t, job, mesh, config, end);
}
