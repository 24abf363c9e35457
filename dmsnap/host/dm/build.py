"""Build description of ``dmsnap.host.dm._libdm``: libdevmapper in cffi's API mode.

The few C functions beside the library keep its last error message, which it would print, and wait
for a udev cookie with a deadline, which ``dm_udev_wait`` cannot.
"""

from cffi import FFI

DECLARATIONS = """
enum {
    DM_DEVICE_CREATE, DM_DEVICE_RELOAD, DM_DEVICE_REMOVE, DM_DEVICE_SUSPEND, DM_DEVICE_RESUME,
    DM_DEVICE_INFO, DM_DEVICE_DEPS, DM_DEVICE_STATUS, DM_DEVICE_TABLE, DM_DEVICE_LIST,
    DM_DEVICE_CLEAR, DM_DEVICE_LIST_VERSIONS, DM_DEVICE_TARGET_MSG, ...
};

struct dm_task;

struct dm_info {
    int exists;
    int suspended;
    int live_table;
    int inactive_table;
    int32_t open_count;
    uint32_t event_nr;
    uint32_t major;
    uint32_t minor;
    int read_only;
    ...;
};

struct dm_deps { uint32_t count; uint64_t device[]; ...; };
struct dm_names { uint64_t dev; uint32_t next; char name[]; ...; };
struct dm_versions { uint32_t next; uint32_t version[3]; char name[]; ...; };

struct dm_task *dm_task_create(int type);
void dm_task_destroy(struct dm_task *dmt);
int dm_task_set_name(struct dm_task *dmt, const char *name);
int dm_task_set_uuid(struct dm_task *dmt, const char *uuid);
int dm_task_set_ro(struct dm_task *dmt);
int dm_task_set_cookie(struct dm_task *dmt, uint32_t *cookie, uint16_t flags);
int dm_task_set_message(struct dm_task *dmt, const char *message);
int dm_task_set_sector(struct dm_task *dmt, uint64_t sector);
int dm_task_no_flush(struct dm_task *dmt);
int dm_task_skip_lockfs(struct dm_task *dmt);
int dm_task_query_inactive_table(struct dm_task *dmt);
int dm_task_add_target(struct dm_task *dmt, uint64_t start, uint64_t size, const char *ttype,
                       const char *params);
int dm_task_run(struct dm_task *dmt);
int dm_task_get_errno(struct dm_task *dmt);
int dm_task_get_info(struct dm_task *dmt, struct dm_info *dmi);
const char *dm_task_get_name(const struct dm_task *dmt);
const char *dm_task_get_uuid(const struct dm_task *dmt);
struct dm_deps *dm_task_get_deps(struct dm_task *dmt);
struct dm_names *dm_task_get_names(struct dm_task *dmt);
struct dm_versions *dm_task_get_versions(struct dm_task *dmt);
const char *dm_task_get_message_response(struct dm_task *dmt);
void *dm_get_next_target(struct dm_task *dmt, void *next, uint64_t *start, uint64_t *length,
                         char **target_type, char **params);

int dm_mknodes(const char *name);
void dm_task_update_nodes(void);
void dm_lib_release(void);
int dm_get_library_version(char *version, size_t size);

int dm_udev_get_sync_support(void);
int dm_udev_create_cookie(uint32_t *cookie);
int dm_udev_complete(uint32_t cookie);

void dms_dm_keep_messages(void);
const char *dms_dm_message(void);
int dms_cookie_wait_zero(uint32_t cookie, uint32_t timeout_ms);
int dms_cookie_destroy(uint32_t cookie);
"""

SOURCE = r"""
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* semtimedop */
#endif
#include <errno.h>
#include <libdevmapper.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <time.h>

/* The library's log function has no context argument: the message is the thread's. */
static _Thread_local char first_message[512];

enum { LOG_LEVEL_MASK = 0x0f, LOG_LEVEL_ERROR = 3 };

/* The first error since the task began is the reason; later ones are consequences. */
__attribute__((format(printf, 5, 6)))
static void keep_message(int level, const char *file, int line, int error_class,
                         const char *format, ...)
{
    va_list arguments;

    (void)file;
    (void)line;
    (void)error_class;
    if ((level & LOG_LEVEL_MASK) > LOG_LEVEL_ERROR || first_message[0])
        return;
    va_start(arguments, format);
    vsnprintf(first_message, sizeof(first_message), format, arguments);
    va_end(arguments);
}

static void dms_dm_keep_messages(void)
{
    first_message[0] = '\0';
    dm_log_with_errno_init(keep_message);
}

static const char *dms_dm_message(void)
{
    return first_message;
}

/*
 * Wait until the cookie's semaphore is zero: 0, or an errno. EAGAIN: not in time; EINTR: a signal
 * arrived and the caller goes on after its handlers; EIDRM or EINVAL: the semaphore was removed.
 */
static int dms_cookie_wait_zero(uint32_t cookie, uint32_t timeout_ms)
{
    struct sembuf zero = { .sem_num = 0, .sem_op = 0, .sem_flg = 0 };
    struct timespec timeout = {
        .tv_sec = timeout_ms / 1000,
        .tv_nsec = (long)(timeout_ms % 1000) * 1000000,
    };
    int semaphore = semget((key_t)cookie, 1, 0);

    if (semaphore < 0)
        return errno;
    return semtimedop(semaphore, &zero, 1, &timeout) < 0 ? errno : 0;
}

static int dms_cookie_destroy(uint32_t cookie)
{
    int semaphore = semget((key_t)cookie, 1, 0);

    if (semaphore < 0)
        return errno;
    return semctl(semaphore, 0, IPC_RMID) < 0 ? errno : 0;
}
"""


def make_ffi() -> FFI:
    ffi = FFI()
    ffi.cdef(DECLARATIONS)
    ffi.set_source(
        "dmsnap.host.dm._libdm",
        SOURCE,
        libraries=["devmapper"],
        extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra"],
    )
    return ffi


ffi = make_ffi()
