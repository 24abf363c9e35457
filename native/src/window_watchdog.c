// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE 1

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <dmsnap/error.h>

#include "cleanup.h"
#include "window_watchdog.h"

#define ARM_TIMEOUT_MS 5000
#define ANSWER_TIMEOUT_MS 10000
#define FIXED_ARGUMENTS 3
#define NUMBER_BYTES 16

DMS_DEFINE_CLEANUP(cleanup_actions, posix_spawn_file_actions_t, posix_spawn_file_actions_destroy);
DMS_DEFINE_CLEANUP(cleanup_attributes, posix_spawnattr_t, posix_spawnattr_destroy);

struct arguments {
	char process[NUMBER_BYTES];
	char thread[NUMBER_BYTES];
	char (*devices)[DMS_WATCHDOG_DEVICE_BYTES];
	char **argv;
};

static void arguments_destroy(struct arguments *arguments)
{
	free(arguments->devices);
	free(arguments->argv);
}

static void format_device(char *text, const struct dms_watchdog_device *device)
{
	snprintf(text, DMS_WATCHDOG_DEVICE_BYTES, "%s%u,%llu,%u,%u,%llu:%s",
		 device->without_freeze ? "!" : "", device->event_nr,
		 (unsigned long long)device->instead_sectors, device->instead_major,
		 device->instead_minor, (unsigned long long)device->instead_start_sectors,
		 device->uuid);
}

static struct dms_error *arguments_create(struct arguments *arguments, const char *path,
					  const struct dms_watchdog_device *devices,
					  size_t nr_devices)
{
	size_t i;

	arguments->devices = calloc(nr_devices, sizeof(*arguments->devices));
	arguments->argv = calloc(FIXED_ARGUMENTS + nr_devices + 1, sizeof(*arguments->argv));
	if (!arguments->devices || !arguments->argv)
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for the watchdog");
	snprintf(arguments->process, NUMBER_BYTES, "%d", (int)getpid());
	snprintf(arguments->thread, NUMBER_BYTES, "%d", (int)gettid());
	arguments->argv[0] = (char *)path;
	arguments->argv[1] = arguments->process;
	arguments->argv[2] = arguments->thread;
	for (i = 0; i < nr_devices; i++) {
		format_device(arguments->devices[i], &devices[i]);
		arguments->argv[FIXED_ARGUMENTS + i] = arguments->devices[i];
	}
	return NULL;
}

/* The other end of the pair becomes its standard input; it gets nothing else of ours. */
static int prepare_actions(posix_spawn_file_actions_t *actions, int fd)
{
	int result = posix_spawn_file_actions_adddup2(actions, fd, STDIN_FILENO);

	if (!result)
		result = posix_spawn_file_actions_addopen(actions, STDOUT_FILENO, "/dev/null",
							  O_RDWR, 0);
	if (!result)
		result = posix_spawn_file_actions_adddup2(actions, STDOUT_FILENO, STDERR_FILENO);
	if (!result)
		result = posix_spawn_file_actions_addclosefrom_np(actions, STDERR_FILENO + 1);
	return result;
}

static int prepare_attributes(posix_spawnattr_t *attributes)
{
	sigset_t none, all;
	int result = posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSID |
								  POSIX_SPAWN_SETSIGMASK |
								  POSIX_SPAWN_SETSIGDEF);

	sigemptyset(&none);
	sigfillset(&all);
	if (!result)
		result = posix_spawnattr_setsigmask(attributes, &none);
	return result ? result : posix_spawnattr_setsigdefault(attributes, &all);
}

static int spawn(struct dms_watchdog *watchdog, const char *path, char **argv, int fd)
{
	DMS_CLEANUP(cleanup_actions) posix_spawn_file_actions_t *actions = NULL;
	DMS_CLEANUP(cleanup_attributes) posix_spawnattr_t *attributes = NULL;
	static char *const environment[] = { NULL };
	posix_spawn_file_actions_t actions_memory;
	posix_spawnattr_t attributes_memory;
	int result = posix_spawn_file_actions_init(&actions_memory);

	if (result)
		return result;
	actions = &actions_memory;
	result = posix_spawnattr_init(&attributes_memory);
	if (result)
		return result;
	attributes = &attributes_memory;
	result = prepare_actions(actions, fd);
	if (!result)
		result = prepare_attributes(attributes);
	if (!result)
		result = posix_spawn(&watchdog->process, path, actions, attributes, argv,
				     environment);
	if (result)
		watchdog->process = 0;
	return result;
}

/* False: it is gone, or silent for timeout_ms. Signals that we handle do not count. */
static bool receive(const struct dms_watchdog *watchdog, int timeout_ms,
		    struct dms_watchdog_message *message)
{
	struct pollfd fds = { .fd = watchdog->fd, .events = POLLIN };
	int result;

	do
		result = poll(&fds, 1, timeout_ms);
	while (result < 0 && errno == EINTR);
	return result > 0 &&
	       recv(watchdog->fd, message, sizeof(*message), MSG_DONTWAIT) == sizeof(*message);
}

static bool say(const struct dms_watchdog *watchdog, const struct dms_watchdog_message *message)
{
	ssize_t result;

	do
		result = send(watchdog->fd, message, sizeof(*message), MSG_NOSIGNAL);
	while (result < 0 && errno == EINTR);
	return result == sizeof(*message);
}

struct dms_error *dms_watchdog_arm(struct dms_watchdog *watchdog, const char *path,
				   const struct dms_watchdog_device *devices, size_t nr_devices)
{
	__attribute__((__cleanup__(arguments_destroy))) struct arguments arguments = { 0 };
	struct dms_watchdog_message message = { 0 };
	_cleanup_close_ int other = -1;
	struct dms_error *error = arguments_create(&arguments, path, devices, nr_devices);
	int pair[2], result;

	if (error)
		return error;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return dms_error_create_os(errno, "making the watchdog's socket");
	watchdog->fd = pair[0];
	other = pair[1];
	/* dup2() onto itself would leave the descriptor closed on exec. */
	if (other == STDIN_FILENO) {
		other = fcntl(pair[1], F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
		close(pair[1]);
		if (other < 0)
			return dms_error_create_os(errno, "making the watchdog's socket");
	}
	result = spawn(watchdog, path, arguments.argv, other);
	if (result)
		return dms_error_create_os(result, "starting the watchdog %s", path);
	close(other);
	other = -1;
	if (!receive(watchdog, ARM_TIMEOUT_MS, &message))
		return dms_error_create_os(ESRCH, "the watchdog %s did not get ready", path);
	if (message.kind == DMS_WATCHDOG_FAILED)
		return dms_error_create_os(message.errnum, "the watchdog could not get ready");
	if (message.kind != DMS_WATCHDOG_ARMED)
		return dms_error_create(DMS_ERR_UNSUPPORTED, "%s is no watchdog", path);
	return NULL;
}

struct dms_error *dms_watchdog_start(const struct dms_watchdog *watchdog, uint64_t deadline_ns)
{
	const struct dms_watchdog_message message = { .kind = DMS_WATCHDOG_START,
						      .deadline_ns = deadline_ns };

	return say(watchdog, &message) ? NULL : dms_error_create_os(ESRCH, "the watchdog is gone");
}

struct dms_error *dms_watchdog_finish(const struct dms_watchdog *watchdog)
{
	const struct dms_watchdog_message done = { .kind = DMS_WATCHDOG_DONE };
	struct dms_watchdog_message message = { 0 };

	if (!say(watchdog, &done) || !receive(watchdog, ANSWER_TIMEOUT_MS, &message))
		return dms_error_create(DMS_ERR_DEADLINE,
					"the watchdog does not answer, what it did is not known;"
					" the window resumed everything");
	if (message.kind != DMS_WATCHDOG_CLEAN)
		return dms_error_create(DMS_ERR_DEADLINE,
					"the deadline passed, the watchdog resumed everything");
	return NULL;
}

/* Once it has answered, no signal of it is on its way: what handled it may go. */
void dms_watchdog_leave(struct dms_watchdog *watchdog)
{
	const struct dms_watchdog_message left = { .kind = DMS_WATCHDOG_LEFT };
	struct dms_watchdog_message message;

	if (say(watchdog, &left))
		receive(watchdog, ANSWER_TIMEOUT_MS, &message);
	close(watchdog->fd);
	*watchdog = (struct dms_watchdog){ .fd = -1 };
}

void dms_watchdog_dismiss(struct dms_watchdog *watchdog)
{
	int tries, result;

	if (watchdog->fd >= 0)
		close(watchdog->fd);
	watchdog->fd = -1;
	if (!watchdog->process)
		return;
	/* It exits right after its last word; one that hangs in an ioctl is not waited for. */
	for (tries = 0; tries < 200; tries++) {
		result = waitpid(watchdog->process, NULL, WNOHANG);
		if (result > 0 || (result < 0 && errno != EINTR))
			break;
		poll(NULL, 0, tries < 20 ? 1 : 10);
	}
	watchdog->process = 0;
}
