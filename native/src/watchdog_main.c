// SPDX-License-Identifier: Apache-2.0
/*
 * dmsnap-watchdog: resumes what a window left suspended. It is started by
 * dms_window_run() before the first suspend and is of no use by itself.
 *
 * From "armed" on it neither allocates nor opens anything, and all of it is
 * locked in memory: the disk that it would be read from may be the one that is
 * suspended.
 */
#define _GNU_SOURCE 1

#include <poll.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "dm_control.h"
#include "window_watchdog.h"

#define WINDOW_FD 0
#define NS_PER_MS 1000000ull
#define ROUND_MS 20
#define MAX_ROUND_MS 500
/* How many rounds a resume may fail after the window's process is gone. */
#define MAX_ROUNDS 200

struct watchdog {
	pid_t process;
	pid_t thread;
	int process_fd;
	int control_fd;
	struct dm_ioctl *requests; /* in the order of resuming */
	struct dms_dm_linear *instead; /* of those whose table may refuse */
	int nr_devices;
	uint64_t deadline_ns;
};

enum event {
	EVENT_TIMEOUT,
	EVENT_DONE,
	EVENT_GONE,
};

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

static int say(enum dms_watchdog_kind kind, int errnum)
{
	const struct dms_watchdog_message message = { .kind = kind, .errnum = errnum };

	return send(WINDOW_FD, &message, sizeof(message), MSG_NOSIGNAL) == sizeof(message) ? 0 : -1;
}

/* Who kills the window's process group, or asks it to stop, does not mean us. */
static void ignore_signals(void)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE,
				       SIGTSTP, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2 };
	size_t i;

	for (i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		signal(signals[i], SIG_IGN);
	setsid();
}

/* Not permitted outside the first user namespace; then the kernel may choose us, as anybody. */
static void avoid_oom_killer(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (write(fd, "-1000", 5) < 0)
		errno = 0;
	close(fd);
}

/* EVENT_NR:UUID or EVENT_NR,SECTORS,MAJOR,MINOR:UUID */
static int parse_device(const char *text, struct dm_ioctl *request, struct dms_dm_linear *instead)
{
	unsigned long long numbers[4] = { 0 };
	char *end = NULL;
	int count = 0;

	do {
		numbers[count++] = strtoull(text, &end, 10);
		text = end + 1;
	} while (*end == ',' && count < 4);
	if (*end != ':' || strlen(text) >= DM_UUID_LEN)
		return -EINVAL;
	dms_dm_prepare(request, text, 0, (uint32_t)numbers[0] & DMS_DM_UDEV_FLAGS_MASK);
	dms_dm_prepare_linear(instead, text, numbers[1], (uint32_t)numbers[2],
			      (uint32_t)numbers[3]);
	return 0;
}

static int parse(struct watchdog *watchdog, int argc, char **argv)
{
	int i, result = 0;

	if (argc < 4)
		return -EINVAL;
	watchdog->process = (pid_t)strtol(argv[1], NULL, 10);
	watchdog->thread = (pid_t)strtol(argv[2], NULL, 10);
	watchdog->nr_devices = argc - 3;
	watchdog->requests = calloc((size_t)watchdog->nr_devices, sizeof(*watchdog->requests));
	watchdog->instead = calloc((size_t)watchdog->nr_devices, sizeof(*watchdog->instead));
	if (!watchdog->requests || !watchdog->instead)
		return -ENOMEM;
	for (i = 0; !result && i < watchdog->nr_devices; i++)
		result = parse_device(argv[3 + i], &watchdog->requests[i], &watchdog->instead[i]);
	return result;
}

static int prepare(struct watchdog *watchdog, int argc, char **argv)
{
	int result = parse(watchdog, argc, argv);

	if (result)
		return result;
	ignore_signals();
	avoid_oom_killer();
	watchdog->process_fd = (int)syscall(SYS_pidfd_open, watchdog->process, 0);
	if (watchdog->process_fd < 0)
		return -errno;
	watchdog->control_fd = dms_dm_open();
	if (watchdog->control_fd < 0)
		return watchdog->control_fd;
	if (chdir("/") < 0 || mlockall(MCL_CURRENT | MCL_FUTURE) < 0)
		return -errno;
	/* Had it died before the pidfd was there, its number could be another's by now. */
	return getppid() == watchdog->process ? 0 : -ESRCH;
}

/* Wait for a message from the window or the end of its process. */
static enum event wait_event(const struct watchdog *watchdog, int timeout_ms,
			     struct dms_watchdog_message *message)
{
	struct pollfd fds[2] = {
		{ .fd = WINDOW_FD, .events = POLLIN },
		{ .fd = watchdog->process_fd, .events = POLLIN },
	};
	ssize_t length;

	if (poll(fds, 2, timeout_ms) <= 0)
		return EVENT_TIMEOUT;
	if (!fds[0].revents)
		return EVENT_GONE;
	length = recv(WINDOW_FD, message, sizeof(*message), MSG_DONTWAIT);
	if (length < 0 && (errno == EINTR || errno == EAGAIN))
		return EVENT_TIMEOUT;
	return length == sizeof(*message) ? EVENT_DONE : EVENT_GONE;
}

static enum event wait_deadline(const struct watchdog *watchdog)
{
	struct dms_watchdog_message message;
	enum event event = EVENT_TIMEOUT;
	uint64_t now = now_ns();

	while (event == EVENT_TIMEOUT && now < watchdog->deadline_ns) {
		uint64_t left_ms = (watchdog->deadline_ns - now + NS_PER_MS - 1) / NS_PER_MS;

		event = wait_event(watchdog, left_ms > 1000 ? 1000 : (int)left_ms, &message);
		now = now_ns();
	}
	return event;
}

/* A device that is no more (ENXIO) needs no resume. */
static int resume_all(const struct watchdog *watchdog)
{
	struct dm_ioctl answer;
	int i, failed = 0;

	for (i = 0; i < watchdog->nr_devices; i++) {
		int result = dms_dm_resume_or_lead(watchdog->control_fd, &watchdog->requests[i],
						   &watchdog->instead[i], &answer);

		failed += result && result != -ENXIO;
	}
	return failed;
}

/*
 * Resume until the window says that it is out. One round is not enough while
 * its process lives: a resume of a device whose suspend is still under way is
 * no resume, and the suspend may then succeed.
 */
static int fire(const struct watchdog *watchdog, enum event event)
{
	struct dms_watchdog_message message;
	int rounds = 0, wait_ms = ROUND_MS;

	while (event == EVENT_TIMEOUT) {
		syscall(SYS_tgkill, watchdog->process, watchdog->thread, DMS_WATCHDOG_SIGNAL);
		resume_all(watchdog);
		event = wait_event(watchdog, wait_ms, &message);
		wait_ms = wait_ms * 2 > MAX_ROUND_MS ? MAX_ROUND_MS : wait_ms * 2;
	}
	/* Now nobody suspends any more: the next round that succeeds is the last. */
	while (resume_all(watchdog) && ++rounds < MAX_ROUNDS)
		poll(NULL, 0, ROUND_MS);
	if (event == EVENT_DONE)
		say(DMS_WATCHDOG_FIRED, 0);
	return rounds < MAX_ROUNDS ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
	struct watchdog watchdog = { 0 };
	struct dms_watchdog_message start = { 0 };
	int result = prepare(&watchdog, argc, argv);
	enum event event;

	if (result) {
		say(DMS_WATCHDOG_FAILED, -result);
		return EXIT_FAILURE;
	}
	if (say(DMS_WATCHDOG_ARMED, 0) < 0)
		return EXIT_FAILURE;
	/* Nothing is suspended before START: without it there is nothing to do. */
	do
		event = wait_event(&watchdog, -1, &start);
	while (event == EVENT_TIMEOUT);
	if (event == EVENT_GONE || start.kind != DMS_WATCHDOG_START)
		return EXIT_SUCCESS;
	watchdog.deadline_ns = start.deadline_ns;
	event = wait_deadline(&watchdog);
	if (event != EVENT_DONE)
		return fire(&watchdog, event);
	return say(DMS_WATCHDOG_CLEAN, 0) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
