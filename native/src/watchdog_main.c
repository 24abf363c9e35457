// SPDX-License-Identifier: Apache-2.0
/*
 * dmsnap-watchdog: resumes what a window left suspended. It is started by
 * dms_window_run() before the first suspend and is of no use by itself.
 *
 * From "armed" on it neither allocates nor opens anything, and all of it is
 * locked in memory: the disk that it would be read from may be the one that is
 * suspended.
 *
 * Every device has a thread of its own. A resume may wait for as long as the
 * device's suspend or another resume holds its lock (dm_resume() takes
 * suspend_lock, uninterruptibly), and both may wait for a disk that never answers
 * (dm-era commits its metadata in them), or for another device of the window.
 */
#define _GNU_SOURCE 1

#include <poll.h>
#include <pthread.h>
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
/* All of it is locked in memory; no architecture asks for more (PTHREAD_STACK_MIN). */
#define STACK_BYTES (256 * 1024)

enum phase {
	PHASE_WAITING,
	PHASE_FIRING, /* the window may go on to suspend */
	PHASE_LAST, /* it does not */
};

struct watchdog;

struct device {
	struct watchdog *watchdog;
	struct dm_ioctl request;
	struct dms_dm_linear instead; /* where its table may refuse */
};

struct watchdog {
	pid_t process;
	pid_t thread;
	int process_fd; /* -1: the kernel has no pidfd_open(), the socket alone tells */
	int control_fd;
	struct device *devices;
	int nr_devices;
	uint64_t deadline_ns;
	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t changed;
	enum phase phase;
	int nr_threads; /* that resume, or wait to */
};

enum event {
	EVENT_TIMEOUT,
	EVENT_DONE,
	EVENT_LEFT,
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

/* EVENT_NR:UUID or EVENT_NR,SECTORS,MAJOR,MINOR,START:UUID, or either behind a "!" */
static int parse_device(const char *text, struct device *device)
{
	uint32_t flags = *text == '!' ? DM_SKIP_LOCKFS_FLAG : 0;
	unsigned long long numbers[5] = { 0 };
	char *end = NULL;
	int count = 0;

	text += *text == '!';
	do {
		numbers[count++] = strtoull(text, &end, 10);
		text = end + 1;
	} while (*end == ',' && count < 5);
	if (*end != ':' || strlen(text) >= DM_UUID_LEN)
		return -EINVAL;
	dms_dm_prepare(&device->request, text, flags,
		       (uint32_t)numbers[0] & DMS_DM_UDEV_FLAGS_MASK);
	dms_dm_prepare_linear(&device->instead, text, numbers[1], (uint32_t)numbers[2],
			      (uint32_t)numbers[3], numbers[4]);
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
	watchdog->devices = calloc((size_t)watchdog->nr_devices, sizeof(*watchdog->devices));
	if (!watchdog->devices)
		return -ENOMEM;
	for (i = 0; !result && i < watchdog->nr_devices; i++) {
		watchdog->devices[i].watchdog = watchdog;
		result = parse_device(argv[3 + i], &watchdog->devices[i]);
	}
	return result;
}

static int next_wait_ms(int wait_ms)
{
	return wait_ms * 2 > MAX_ROUND_MS ? MAX_ROUND_MS : wait_ms * 2;
}

static void begin_phase(struct watchdog *watchdog, enum phase phase)
{
	pthread_mutex_lock(&watchdog->lock);
	watchdog->phase = phase;
	pthread_cond_broadcast(&watchdog->changed);
	pthread_mutex_unlock(&watchdog->lock);
}

/* Wait until it is over; 0 ms: for ever. Returns the phase that it is then. */
static enum phase wait_phase(struct watchdog *watchdog, enum phase phase, int timeout_ms)
{
	uint64_t end_ns = now_ns() + (uint64_t)timeout_ms * NS_PER_MS;
	const struct timespec end = { .tv_sec = (time_t)(end_ns / 1000000000ull),
				      .tv_nsec = (long)(end_ns % 1000000000ull) };
	int result = 0;

	pthread_mutex_lock(&watchdog->lock);
	while (watchdog->phase == phase && result != ETIMEDOUT)
		result = timeout_ms ?
			 pthread_cond_timedwait(&watchdog->changed, &watchdog->lock, &end) :
			 pthread_cond_wait(&watchdog->changed, &watchdog->lock);
	phase = watchdog->phase;
	pthread_mutex_unlock(&watchdog->lock);
	return phase;
}

/* Whether it is not suspended now. A device that is no more (ENXIO) needs no resume. */
static bool resume(const struct device *device)
{
	struct dm_ioctl answer;

	return !dms_dm_refused(dms_dm_resume_or_lead(device->watchdog->control_fd,
						     &device->request, &device->instead,
						     &answer));
}

/*
 * Resume until the window is out. Once is not enough while its process lives: a
 * device whose suspend is still under way is not suspended, and it may succeed after
 * we looked. Afterwards no suspend is under way any more, and the next look that
 * finds it going on is the last; until then there is no end, since there may be
 * nobody else.
 */
static void *keep_resumed(void *argument)
{
	const struct device *device = argument;
	struct watchdog *watchdog = device->watchdog;
	enum phase phase = wait_phase(watchdog, PHASE_WAITING, 0);
	int wait_ms = ROUND_MS;

	while (phase == PHASE_FIRING) {
		resume(device);
		phase = wait_phase(watchdog, PHASE_FIRING, wait_ms);
		wait_ms = next_wait_ms(wait_ms);
	}
	wait_ms = ROUND_MS;
	while (!resume(device)) {
		poll(NULL, 0, wait_ms);
		wait_ms = next_wait_ms(wait_ms);
	}
	pthread_mutex_lock(&watchdog->lock);
	watchdog->nr_threads--;
	pthread_cond_broadcast(&watchdog->changed);
	pthread_mutex_unlock(&watchdog->lock);
	return NULL;
}

/* One for every device; those that were started end with the process. */
static int start_threads(struct watchdog *watchdog)
{
	pthread_attr_t attributes;
	pthread_t thread;
	int i, result = pthread_attr_init(&attributes);

	if (result)
		return -result;
	result = pthread_attr_setstacksize(&attributes, STACK_BYTES);
	if (!result)
		result = pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	watchdog->nr_threads = watchdog->nr_devices;
	for (i = 0; !result && i < watchdog->nr_devices; i++)
		result = pthread_create(&thread, &attributes, keep_resumed, &watchdog->devices[i]);
	pthread_attr_destroy(&attributes);
	return -result;
}

static int make_lock(struct watchdog *watchdog)
{
	pthread_condattr_t attributes;
	int result = pthread_condattr_init(&attributes);

	if (result)
		return -result;
	result = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	if (!result)
		result = pthread_cond_init(&watchdog->changed, &attributes);
	pthread_condattr_destroy(&attributes);
	return result ? -result : -pthread_mutex_init(&watchdog->lock, NULL);
}

/* Before Linux 5.3 there is none: that the socket is closed says that the process is gone. */
static int open_process(struct watchdog *watchdog)
{
	watchdog->process_fd = (int)syscall(SYS_pidfd_open, watchdog->process, 0);
	return watchdog->process_fd < 0 && errno != ENOSYS ? -errno : 0;
}

static int prepare(struct watchdog *watchdog, int argc, char **argv)
{
	int result = parse(watchdog, argc, argv);

	if (!result)
		result = make_lock(watchdog);
	if (result)
		return result;
	ignore_signals();
	avoid_oom_killer();
	result = open_process(watchdog);
	if (result)
		return result;
	watchdog->control_fd = dms_dm_open();
	if (watchdog->control_fd < 0)
		return watchdog->control_fd;
	if (chdir("/") < 0 || mlockall(MCL_CURRENT | MCL_FUTURE) < 0)
		return -errno;
	result = start_threads(watchdog);
	if (result)
		return result;
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
	if (length != sizeof(*message))
		return EVENT_GONE;
	return message->kind == DMS_WATCHDOG_LEFT ? EVENT_LEFT : EVENT_DONE;
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

static void wait_threads(struct watchdog *watchdog)
{
	pthread_mutex_lock(&watchdog->lock);
	while (watchdog->nr_threads)
		pthread_cond_wait(&watchdog->changed, &watchdog->lock);
	pthread_mutex_unlock(&watchdog->lock);
}

/* The signal ends a suspend that waits for I/O, behind which the device's resume waits. */
static void fire(struct watchdog *watchdog, enum event event)
{
	struct dms_watchdog_message message;
	int wait_ms = ROUND_MS;

	if (event == EVENT_TIMEOUT)
		begin_phase(watchdog, PHASE_FIRING);
	while (event == EVENT_TIMEOUT) {
		syscall(SYS_tgkill, watchdog->process, watchdog->thread, DMS_WATCHDOG_SIGNAL);
		event = wait_event(watchdog, wait_ms, &message);
		wait_ms = next_wait_ms(wait_ms);
	}
	begin_phase(watchdog, PHASE_LAST);
	if (event == EVENT_LEFT)
		say(DMS_WATCHDOG_FIRED, 0);
	wait_threads(watchdog);
	if (event == EVENT_DONE)
		say(DMS_WATCHDOG_FIRED, 0);
}

int main(int argc, char **argv)
{
	/* Not on the stack: its threads look at it until the process has ended. */
	static struct watchdog watchdog;
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
	if (event != EVENT_DONE) {
		fire(&watchdog, event);
		return EXIT_SUCCESS;
	}
	return say(DMS_WATCHDOG_CLEAN, 0) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
