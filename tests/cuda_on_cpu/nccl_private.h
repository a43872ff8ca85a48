/* What the parts of the emulated NCCL share. */
#ifndef CUDA_ON_CPU_NCCL_PRIVATE_H
#define CUDA_ON_CPU_NCCL_PRIVATE_H

#include "for_libraries.h"
#include "nccl.h"

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#define NCCL_TRY(call)                                                                                              \
    do {                                                                                                            \
        if (ncclResult_t result_ = (call))                                                                          \
            return result_;                                                                                         \
    } while (0)

namespace nccl_on_cpu {

/* ---- nccl.cc ---- */

/* Keeps a text for ncclGetLastError and returns RESULT. */
ncclResult_t fail(ncclResult_t result, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* ncclSuccess if calls of a group may use the communicator now. */
ncclResult_t check_usable(ncclComm_t, const char *call);
/* From now on every call on it fails with RESULT, and its peers' with ncclRemoteError. */
void break_down(ncclComm_t, ncclResult_t result);
/* ncclInProgress by chance, and always ncclSuccess for those that block. */
ncclResult_t answer(const std::vector<ncclComm_t> &);
unsigned long long environment(const char *name, unsigned long long otherwise);
/* NULL, and told why, where there is no emulated CUDA. */
const struct cuda_on_cpu_for_libraries *cuda();

/* Held by each call that touches links, but while it waits for other ranks. */
extern std::recursive_mutex working;

/* ---- nccl_group.cc ---- */

struct group;
bool in_group(); /* this thread */
/* Sends what is under way beside the calls, as far as it can without waiting. */
void advance_sends(ncclComm_t);
/* Until nothing is. */
ncclResult_t finish_sends(ncclComm_t);

/* ---- nccl.cc ---- */

/* From now on a thread of its own advances all communicators' sends. */
void serve_sends();

/* ---- nccl_join.cc ---- */

/* How the ranks of a communicator find each other. Every rank listens at a name that is made from the unique id, connects to those below
 * it, and says who it is; when all have, each says whether it agrees, and it is done when all have said so. */
class gathering {
  public:
    gathering(const ncclUniqueId &, int rank, int ranks);
    ~gathering();
    gathering(const gathering &) = delete;
    ncclResult_t begin(int device);
    /* Goes on as far as it can without waiting; ncclInProgress until all have come. */
    ncclResult_t advance();
    int take_socket(int rank); /* the caller's from now on */

  private:
    struct hello {
        uint32_t magic;
        int32_t ranks, rank;
        char bus[32], host[256]; /* of the device; NCCL_HOSTID */
    };
    struct comer {
        int socket;
        bool known, answered; /* has said who it is; whether it agrees */
        size_t read;          /* bytes of what it says now */
        hello said;
        int32_t verdict;
    };
    ncclResult_t meet(int socket);
    ncclResult_t connect_to(int rank);
    ncclResult_t accept_others();
    ncclResult_t check_hello(const hello &);
    ncclResult_t listen_to(comer *);
    ncclResult_t compare();
    ncclResult_t tell_verdict();

    ncclUniqueId id;
    hello self;
    int listener; /* kept, so that no one uses the id again */
    std::vector<comer> comers;
    std::vector<bool> connected;
    bool told;
};

/* ---- nccl_link.cc ---- */

/* Messages of these are matched in their order, each class by itself. */
enum message_class { BETWEEN_TWO, OF_ALL, CLASSES };
enum operation_kind { EXCHANGE, ALL_REDUCE, REDUCE_SCATTER };

struct message {
    message_class of;
    operation_kind operation;
    ncclDataType_t type;
    size_t bytes;
    const char *from; /* to be sent */
    char *to;         /* or to be filled */
};

/* Messages to and from one other rank. A receiver says what it wants, the sender then sends, so that nothing travels that no one waits
 * for, and both know where they differ. */
class peer_link {
  public:
    peer_link(int rank, int peer, int socket) : rank(rank), peer(peer), socket(socket) {}
    void post_send(const message &);
    void post_receive(const message &);
    /* Reads and writes what it can without waiting. */
    ncclResult_t advance();
    bool done() const; /* with all that was posted */
    short events() const;
    int file() const { return socket; }

  private:
    enum frame_kind : uint32_t { WANT = 0x77616e74, HAVE = 0x68617665 };
    struct frame {
        frame_kind says;
        uint32_t of, operation, type;
        uint64_t sequence, bytes;
    };
    struct outgoing {
        frame head;
        const char *data;
        size_t bytes, done; /* of the data; of both */
    };
    void say(frame_kind, const message &, uint64_t sequence, const char *data);
    void match(size_t of);
    ncclResult_t take_frame();
    ncclResult_t read_all();
    ncclResult_t write_all();
    ncclResult_t refuse(const message &ours, const frame &theirs, bool sending);

    int rank, peer, socket;
    uint64_t wanted[CLASSES] = {}, sent[CLASSES] = {}, received[CLASSES] = {};
    std::deque<message> sends[CLASSES], receives[CLASSES];
    std::deque<frame> wants[CLASSES];
    std::deque<outgoing> out;
    frame head = {};
    size_t head_read = 0, filled = 0;
    ncclResult_t refused = ncclSuccess; /* once what is to be written is */
};

} // namespace nccl_on_cpu

struct ncclComm {
    int rank, ranks, device;
    bool blocks, finalized;
    ncclResult_t state; /* ncclInProgress until all have come */
    bool in_progress;   /* of a call that was answered so, until ncclCommGetAsyncError has said ncclSuccess */
    unsigned answers;   /* so many more ncclInProgress */
    uint64_t chance;
    nccl_on_cpu::gathering *gathered;
    std::vector<nccl_on_cpu::peer_link> links; /* by rank; that to itself is unused */
    std::vector<std::shared_ptr<nccl_on_cpu::group>> sending; /* groups whose messages are under way beside the calls */
};

#endif
