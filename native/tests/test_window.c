// SPDX-License-Identifier: Apache-2.0
/*
 * The window and its watchdog against a kernel made of shared memory. The
 * watchdog is this program, started again: every UUID begins with the path of
 * the file that the devices live in.
 */
#define _GNU_SOURCE 1

#include <sys/syscall.h>

/* A number that no kernel knows: ENOSYS, as before Linux 5.3. */
#define NO_SYSTEM_CALL 1000000
static long pidfd_open_number = SYS_pidfd_open;
#undef SYS_pidfd_open
#define SYS_pidfd_open pidfd_open_number

#define main dms_watchdog_main
#include "../src/watchdog_main.c"
#undef main

#include <sys/prctl.h>
#include <sys/wait.h>

#include <dmsnap/window.h>

#include "engine_test.h"
#include "fake_dm.h"
#include "../src/window_counters.h"

#define NR_STEPS 5
/* Of windows that are not to be late, however busy the machine is. */
#define AMPLE_MS 60000

static char program[4096];

/* How long each pass over a file system takes; the last one stays. No file system: none is there. */
static const int *passes_ms;
static int nr_passes;
static const int file_systems[] = { 7, 8 };
static size_t nr_file_systems;

/* What stands by for a device that refuses; none in most tests. */
static const struct dms_window_put_back *put_back;
/* Somebody else suspends the front while file systems are written back. */
static bool suspended_meanwhile;

static void make_steps(struct dms_window_step *steps)
{
	static const struct { const char *name; enum dms_window_action action; } all[NR_STEPS] = {
		{ "front", DMS_WINDOW_SUSPEND },    { "origin", DMS_WINDOW_SUSPEND_NO_FREEZE },
		{ "snapshot", DMS_WINDOW_RESUME },  { "origin", DMS_WINDOW_RESUME },
		{ "front", DMS_WINDOW_RESUME },
	};
	int i;

	memset(steps, 0, NR_STEPS * sizeof(*steps));
	for (i = 0; i < NR_STEPS; i++) {
		snprintf(steps[i].uuid, sizeof(steps[i].uuid), "%s:%s", path, all[i].name);
		steps[i].action = all[i].action;
		if (all[i].action == DMS_WINDOW_RESUME)
			steps[i].event_nr = 0x00200000u + 77 + (uint32_t)i;
	}
	steps[4].instead_sectors = 24576;
	steps[4].instead_major = 253;
	steps[4].instead_minor = 1;
	steps[4].instead_start_sectors = 7;
}

static struct dms_error *run(struct dms_window_step *steps, uint32_t deadline_ms)
{
	struct dms_window_result result = { .seconds = -1 };
	struct dms_error *error;

	make_steps(steps);
	error = dms_window_run(steps, NR_STEPS, file_systems, nr_file_systems, deadline_ms,
			       program, put_back, NULL, 0, &result);
	CHECK(error ? result.seconds < 0 : result.seconds > 0);
	return error;
}

int dms_syncfs_inject(int fd)
{
	int ms = passes_ms[nr_passes];

	/* The watchdog is armed, and nothing is suspended yet. */
	CHECK(!kernel->nr_calls && (fd == file_systems[0] || fd == file_systems[1]));
	if (ms < 0) {
		errno = EIO;
		return -1;
	}
	pause_ms(ms, false);
	kernel->devices[FRONT].suspended = suspended_meanwhile;
	nr_passes += passes_ms[nr_passes + 1] != 0 && fd == file_systems[nr_file_systems - 1];
	return 0;
}

static bool any_suspended(void)
{
	int i;

	for (i = 0; i < MAX_DEVICES; i++)
		if (kernel->devices[i].suspended)
			return true;
	return false;
}

static uint64_t milliseconds(void)
{
	return now_ns() / 1000000;
}

static void test_success(void)
{
	static const int order[NR_STEPS] = { FRONT, ORIGIN, SNAPSHOT, ORIGIN, FRONT };
	struct dms_window_step steps[NR_STEPS];
	int i;

	kernel_reset();
	CHECK_OK(run(steps, AMPLE_MS));
	CHECK(!any_suspended() && kernel->nr_calls == NR_STEPS);
	CHECK(kernel->devices[SNAPSHOT].active && !kernel->devices[SNAPSHOT].inactive);
	for (i = 0; i < NR_STEPS; i++) {
		CHECK(kernel->calls[i].device == order[i] && kernel->calls[i].pid == getpid());
		CHECK(kernel->calls[i].event_nr == steps[i].event_nr);
		CHECK(steps[i].seconds > 0 && steps[i].seconds < 60);
		CHECK(steps[i].uevent_generated == (i >= 2));
	}
	CHECK(kernel->calls[0].flags == DM_SUSPEND_FLAG);
	CHECK(kernel->calls[1].flags == (DM_SUSPEND_FLAG | DM_SKIP_LOCKFS_FLAG));
	CHECK(kernel->calls[2].flags == 0);
	/* A resume that would have to suspend its device does so as the step before it. */
	CHECK(kernel->calls[3].flags == DM_SKIP_LOCKFS_FLAG && kernel->calls[4].flags == 0);
}

/* File systems are written back until little is left, or for a few seconds. */
static void test_flush(void)
{
	static const int ever_less[] = { 40, 10, 4, 1, 500, 0 }, never_less[] = { 900, 0 };
	static const int late[] = { 3100, 1500, 300, 1, 0 }, failing[] = { 40, -1, 0 };
	struct dms_window_result result;
	struct dms_window_step steps[NR_STEPS];
	struct dms_error *error;

	for (nr_file_systems = 1; nr_file_systems <= 2; nr_file_systems++) {
		kernel_reset();
		nr_passes = 0;
		passes_ms = ever_less;
		make_steps(steps);
		CHECK_OK(dms_window_run(steps, NR_STEPS, file_systems, nr_file_systems, AMPLE_MS,
					program, NULL, NULL, 0, &result));
		CHECK(nr_passes >= 4 && result.nr_flushes >= 4);
		CHECK(result.flush_seconds > 0.05 && kernel->nr_calls == NR_STEPS);
	}
	nr_file_systems = 1;
	kernel_reset();
	nr_passes = 0;
	passes_ms = never_less;
	make_steps(steps);
	CHECK_OK(dms_window_run(steps, NR_STEPS, file_systems, 1, AMPLE_MS, program, NULL,
				   NULL, 0, &result));
	CHECK(result.nr_flushes > 1 && result.nr_flushes <= 4);
	kernel_reset();
	nr_passes = 0;
	passes_ms = late;
	make_steps(steps);
	CHECK_OK(dms_window_run(steps, NR_STEPS, file_systems, 1, AMPLE_MS, program, NULL,
				   NULL, 0, &result));
	CHECK(result.nr_flushes >= 4);
	kernel_reset();
	nr_passes = 0;
	passes_ms = failing;
	error = run(steps, AMPLE_MS);
	CHECK(error && error->code == DMS_ERR_OS && error->errnum == EIO);
	CHECK(strstr(error->message, "file system 1 of 1") && !kernel->nr_calls);
	dms_error_destroy(error);
	/* What somebody else has suspended by then is not ours to resume. */
	kernel_reset();
	nr_passes = 0;
	passes_ms = ever_less;
	suspended_meanwhile = true;
	error = run(steps, AMPLE_MS);
	CHECK(error && error->code == DMS_ERR_OS && error->errnum == EBUSY);
	dms_error_destroy(error);
	CHECK(kernel->devices[FRONT].suspended && !kernel->nr_calls);
	suspended_meanwhile = false;
	nr_file_systems = 0;
}

/* A step that fails: everything is resumed, with the cookies of the steps that did not come. */
static void test_failing_steps(void)
{
	struct dms_window_step steps[NR_STEPS];
	struct dms_error *error;
	int device;

	for (device = 0; device < 3; device++) {
		kernel_reset();
		kernel->devices[device].behaviour = device == SNAPSHOT ? FAIL_RESUME : FAIL;
		error = run(steps, AMPLE_MS);
		CHECK(error && error->code == DMS_ERR_OS && error->errnum == EIO);
		CHECK(strstr(error->message, kernel->devices[device].name));
		dms_error_destroy(error);
		CHECK(!any_suspended());
		CHECK(steps[4].uevent_generated == (device != FRONT));
		CHECK(steps[3].uevent_generated == (device == SNAPSHOT));
		CHECK(!steps[2].uevent_generated);
	}
	/* A resume that fails once is tried again by the undo. */
	kernel_reset();
	kernel->devices[FRONT].behaviour = FAIL_RESUME;
	CHECK_ERROR(run(steps, AMPLE_MS), DMS_ERR_OS);
	CHECK(!any_suspended());
}

/* The last of our watchdogs is gone; whoever died has left us his. */
static void wait_no_watchdog(void)
{
	uint64_t begin = milliseconds();
	pid_t pid;

	while ((pid = waitpid(-1, NULL, WNOHANG)) >= 0) {
		CHECK(milliseconds() - begin < 15000);
		pause_ms(pid ? 0 : 1, false);
	}
	CHECK(errno == ECHILD);
}

/* A table that refuses to be resumed gives way to another one; nobody is left waiting. */
static void test_refusing_table(void)
{
	struct dms_window_step steps[NR_STEPS];
	struct dms_error *error;

	kernel_reset();
	kernel->devices[FRONT].behaviour = REFUSE;
	error = run(steps, AMPLE_MS);
	CHECK(error && error->code == DMS_ERR_OS && error->errnum == EIO);
	dms_error_destroy(error);
	CHECK(!any_suspended() && kernel->devices[FRONT].resumes == 2);
	CHECK(!strcmp(kernel->devices[FRONT].loaded, "24576 253:1 7"));
	/* There is none for the origin: then the error says that it is suspended. */
	kernel_reset();
	kernel->devices[ORIGIN].behaviour = REFUSE;
	error = run(steps, AMPLE_MS);
	CHECK(error && strstr(error->message, "origin") && strstr(error->message, "suspended still"));
	dms_error_destroy(error);
	CHECK(kernel->devices[ORIGIN].suspended && !kernel->devices[FRONT].suspended);
	kernel->devices[ORIGIN].behaviour = PLAIN;
	wait_no_watchdog();
	CHECK(!any_suspended());
}

/* The table of the front, exchanged. */
static struct dms_error *exchange(uint32_t deadline_ms)
{
	struct dms_window_step steps[NR_STEPS], both[2];
	struct dms_window_result result;

	make_steps(steps);
	both[0] = steps[0];
	both[1] = steps[4];
	both[1].instead_sectors = 0;
	return dms_window_run(both, 2, NULL, 0, deadline_ms, program, put_back, NULL, 0, &result);
}

/*
 * A suspend that does not come to its end leaves the former table: nobody makes the new one live
 * behind it, by a resume for which the kernel would suspend the device once more.
 */
static void test_exchange_that_hangs(void)
{
	struct fake_device *front = &kernel->devices[FRONT];
	pid_t pid;

	kernel_reset();
	front->inactive = true;
	front->behaviour = HANG;
	CHECK_ERROR(exchange(100), DMS_ERR_DEADLINE);
	CHECK(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD);
	CHECK(!front->suspended && front->inactive && !front->swaps);

	kernel->nr_calls = 0;
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		dms_error_destroy(exchange(AMPLE_MS));
		_exit(0);
	}
	while (!kernel->nr_calls)
		pause_ms(1, false);
	kill(pid, SIGKILL);
	wait_no_watchdog();
	CHECK(!front->suspended && front->inactive && !front->swaps && kernel->nr_calls == 1);
}

/* One that comes to its end late makes the new table live, and that is told. */
static void test_exchange_that_is_late(void)
{
	struct fake_device *front = &kernel->devices[FRONT];

	kernel_reset();
	front->inactive = true;
	front->behaviour = SLOW;
	CHECK_ERROR(exchange(100), DMS_ERR_DEADLINE);
	CHECK(!front->suspended && !front->inactive && front->swaps == 1);
}

/* A new table that refuses, and no other: the watchdog stays, whatever becomes of the process. */
static void test_exchange_that_is_refused(void)
{
	struct fake_device *front = &kernel->devices[FRONT];
	pid_t pid;
	int calls;

	kernel_reset();
	front->inactive = true;
	front->behaviour = REFUSE;
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		dms_error_destroy(exchange(AMPLE_MS));
		kill(getpid(), SIGKILL);
	}
	CHECK(waitpid(pid, NULL, 0) == pid && front->suspended);
	calls = kernel->nr_calls;
	while (kernel->nr_calls < calls + 3)
		pause_ms(1, false);
	CHECK(front->suspended);
	front->behaviour = PLAIN;
	wait_no_watchdog();
	CHECK(!front->suspended);
}

static int put_former_back(void *context)
{
	struct fake_device *front = context;

	/* The watchdog is on guard. */
	CHECK(front->suspended && waitpid(-1, NULL, WNOHANG) == 0);
	strcpy(front->loaded, "the former");
	front->inactive = true;
	return 0;
}

static int die(void *context)
{
	(void)context;
	return kill(getpid(), SIGKILL);
}

/* What the caller can put back comes before what there is instead, which is the watchdog's. */
static void test_put_back(void)
{
	const struct dms_window_put_back former = { put_former_back, &kernel->devices[FRONT] };
	const struct dms_window_put_back deadly = { die, NULL };
	struct dms_window_step steps[NR_STEPS];
	struct dms_error *error;
	pid_t pid;

	kernel_reset();
	kernel->devices[FRONT].behaviour = REFUSE;
	put_back = &former;
	error = run(steps, AMPLE_MS);
	CHECK(error && error->errnum == EIO && strstr(error->message, "everything was resumed"));
	dms_error_destroy(error);
	CHECK(!any_suspended() && !strcmp(kernel->devices[FRONT].loaded, "the former"));

	kernel_reset();
	kernel->devices[FRONT].behaviour = REFUSE;
	put_back = &deadly;
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		run(steps, AMPLE_MS);
		_exit(0);
	}
	wait_no_watchdog();
	put_back = NULL;
	CHECK(!any_suspended() && !strcmp(kernel->devices[FRONT].loaded, "24576 253:1 7"));
}

static void test_deadline(enum behaviour behaviour, int device)
{
	struct dms_window_step steps[NR_STEPS];
	uint64_t begin;

	kernel_reset();
	kernel->devices[device].behaviour = behaviour;
	begin = milliseconds();
	CHECK_ERROR(run(steps, 100), DMS_ERR_DEADLINE);
	/* HANG would take 20 seconds. */
	CHECK(milliseconds() - begin < 15000);
	CHECK(!any_suspended());
	CHECK(kernel->devices[SNAPSHOT].inactive);
}

/*
 * A set of two volumes, of which one waits in its suspend, or in its resume, for what does not come
 * back before the other goes on: the watchdog comes to that all the same.
 */
static void test_stuck_neighbour(enum behaviour behaviour)
{
	static const struct { const char *name; enum dms_window_action action; } all[] = {
		{ "front", DMS_WINDOW_SUSPEND }, { "other", DMS_WINDOW_SUSPEND },
		{ "other", DMS_WINDOW_RESUME },	 { "front", DMS_WINDOW_RESUME },
	};
	struct dms_window_step steps[4] = { 0 };
	struct dms_window_result result;
	uint64_t begin = milliseconds();
	int i;

	kernel_reset();
	kernel->devices[OTHER].behaviour = behaviour;
	for (i = 0; i < 4; i++) {
		snprintf(steps[i].uuid, sizeof(steps[i].uuid), "%s:%s", path, all[i].name);
		steps[i].action = all[i].action;
	}
	CHECK_ERROR(dms_window_run(steps, 4, NULL, 0, 200, program, NULL,
				   NULL, 0, &result), DMS_ERR_DEADLINE);
	CHECK(milliseconds() - begin < STUCK_MS / 2);
	CHECK(!any_suspended());
}

static volatile sig_atomic_t nr_signals;

static void count_signal(int number)
{
	(void)number;
	nr_signals++;
	CHECK(!any_suspended());
}

static void test_signals(void)
{
	struct sigaction action = { .sa_handler = count_signal }, wake, after;
	struct dms_window_step steps[NR_STEPS];
	sigset_t before = { 0 }, mask = { 0 };

	kernel_reset();
	nr_signals = 0;
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigprocmask(SIG_SETMASK, NULL, &before);
	sigaction(DMS_WATCHDOG_SIGNAL, NULL, &wake);
	kernel->devices[FRONT].behaviour = SIGNAL;
	CHECK_OK(run(steps, AMPLE_MS));
	CHECK(nr_signals == 2);
	sigprocmask(SIG_SETMASK, NULL, &mask);
	CHECK(!memcmp(&mask, &before, sizeof(mask)));
	sigaction(DMS_WATCHDOG_SIGNAL, NULL, &after);
	CHECK(wake.sa_handler == after.sa_handler);
	signal(SIGINT, SIG_DFL);
	signal(SIGTERM, SIG_DFL);
}

/* What is counted is read behind the last suspend and before the first resume. */
static void test_counters(void)
{
	FILE *stat = tmpfile(), *other = tmpfile(), *empty = tmpfile();
	struct dms_window_counter counters[4];
	struct dms_window_step steps[NR_STEPS];
	struct dms_window_result result;

	CHECK(stat && other && empty && fputs("1 2 3", other) > 0 && !fflush(other));
	counters[0].stat_fd = stat_fd = fileno(stat);
	counters[1].stat_fd = -1;
	counters[2].stat_fd = fileno(other);
	counters[3].stat_fd = fileno(empty);
	kernel_reset();
	make_steps(steps);
	CHECK_OK(dms_window_run(steps, NR_STEPS, NULL, 0, AMPLE_MS, program, NULL, counters, 4,
				&result));
	CHECK(kernel->nr_calls == NR_STEPS);
	CHECK(counters[0].known && counters[0].sectors_written == 22 && !counters[0].in_flight);
	CHECK(!counters[1].known && !counters[2].known && !counters[3].known);
	/* As it is left, with five calls. */
	dms_window_count(counters, 1);
	CHECK(counters[0].known && counters[0].sectors_written == 55 && counters[0].in_flight);
	stat_fd = -1;
	fclose(stat);
	fclose(other);
	fclose(empty);
}

/* What is held stays suspended, and only when all went well. */
static void test_held(void)
{
	static const struct { const char *name; enum dms_window_action action; } all[] = {
		{ "front", DMS_WINDOW_SUSPEND_NO_FREEZE }, { "origin", DMS_WINDOW_HOLD },
		{ "front", DMS_WINDOW_RESUME },
	};
	static const enum behaviour failing[] = { PLAIN, FAIL_RESUME };
	struct dms_window_step steps[3];
	struct dms_window_result result;
	struct dms_error *error;
	size_t i, round;

	for (round = 0; round < 2; round++) {
		memset(steps, 0, sizeof(steps));
		for (i = 0; i < 3; i++) {
			snprintf(steps[i].uuid, sizeof(steps[i].uuid), "%s:%s", path, all[i].name);
			steps[i].action = all[i].action;
		}
		kernel_reset();
		kernel->devices[FRONT].behaviour = failing[round];
		error = dms_window_run(steps, 3, NULL, 0, AMPLE_MS, program, NULL, NULL, 0, &result);
		CHECK(!error == !round);
		dms_error_destroy(error);
		CHECK(!kernel->devices[FRONT].suspended);
		CHECK(kernel->devices[ORIGIN].suspended == !round);
		CHECK(kernel->calls[1].flags == (DM_SUSPEND_FLAG | DM_SKIP_LOCKFS_FLAG));
		pause_ms(20, false);
		CHECK(kernel->devices[ORIGIN].suspended == !round);
	}
	/* Behind the failed step first the origin was resumed, as it was suspended last. */
	CHECK(kernel->calls[3].device == ORIGIN && kernel->calls[3].flags == DM_SKIP_LOCKFS_FLAG);
}

static void test_refusals(void)
{
	struct dms_window_step steps[NR_STEPS];
	struct dms_window_result result;

	kernel_reset();
	make_steps(steps);
	CHECK_ERROR(dms_window_run(steps, 0, NULL, 0, 100, program, NULL,
				   NULL, 0, &result), DMS_ERR_INVALID_ARGUMENT);
	CHECK_ERROR(dms_window_run(steps, 4, NULL, 0, 100, program, NULL, NULL, 0, &result),
		    DMS_ERR_INVALID_ARGUMENT);
	steps[1].action = DMS_WINDOW_HOLD;
	CHECK_ERROR(dms_window_run(steps, NR_STEPS, NULL, 0, 100, program, NULL, NULL, 0, &result),
		    DMS_ERR_INVALID_ARGUMENT);
	CHECK_ERROR(dms_window_run(steps + 2, 1, NULL, 0, 100, program, NULL, NULL, 0, &result),
		    DMS_ERR_INVALID_ARGUMENT);
	steps[1].action = DMS_WINDOW_RESUME;
	CHECK_ERROR(dms_window_run(steps, NR_STEPS, NULL, 0, 100, program, NULL, NULL, 0, &result),
		    DMS_ERR_INVALID_ARGUMENT);
	make_steps(steps);
	memset(steps[2].uuid, 'x', sizeof(steps[2].uuid));
	CHECK_ERROR(dms_window_run(steps, NR_STEPS, NULL, 0, 100, program, NULL, NULL, 0, &result),
		    DMS_ERR_INVALID_ARGUMENT);

	make_steps(steps);
	CHECK_ERROR(dms_window_run(steps, NR_STEPS, NULL, 0, 100, "/nonexistent", NULL,
				   NULL, 0, &result),
		    DMS_ERR_OS);
	CHECK_ERROR(dms_window_run(steps, NR_STEPS, NULL, 0, 100, "/bin/true", NULL,
				   NULL, 0, &result), DMS_ERR_OS);
	kernel->devices[ORIGIN].suspended = true;
	CHECK_ERROR(dms_window_run(steps, NR_STEPS, NULL, 0, 100, program, NULL,
				   NULL, 0, &result), DMS_ERR_OS);
	kernel->devices[ORIGIN].suspended = false;
	kernel->devices[SNAPSHOT].inactive = false;
	CHECK_ERROR(dms_window_run(steps, NR_STEPS, NULL, 0, 100, program, NULL, NULL, 0, &result),
		    DMS_ERR_INVALID_ARGUMENT);
	kernel->devices[SNAPSHOT].name[0] = 'X';
	CHECK_ERROR(dms_window_run(steps, NR_STEPS, NULL, 0, 100, program, NULL,
				   NULL, 0, &result), DMS_ERR_OS);
	CHECK(kernel->nr_calls == 0);
}

static pid_t start_windows(uint32_t deadline_ms)
{
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (pid)
		return pid;
	for (;;) {
		struct dms_window_step steps[NR_STEPS];
		struct dms_error *error = run(steps, deadline_ms);

		if (error) {
			int code = error->code;

			dms_error_destroy(error);
			_exit(code);
		}
	}
}

static void check_all_resumed(uint64_t within_ms)
{
	uint64_t begin = milliseconds();

	while (any_suspended()) {
		CHECK(milliseconds() - begin < within_ms);
		pause_ms(1, false);
	}
	/* And nobody suspends again. */
	pause_ms(5, false);
	CHECK(!any_suspended());
}

/* Stop a process as soon as the front is suspended; false: it has ended, of its deadline. */
static bool stop_soon(pid_t pid, int *status)
{
	siginfo_t ended = { 0 };

	while (!kernel->devices[FRONT].suspended && !ended.si_pid)
		CHECK(!waitid(P_PID, (id_t)pid, &ended, WEXITED | WNOHANG | WNOWAIT));
	kill(pid, SIGSTOP);
	CHECK(waitpid(pid, status, WUNTRACED) == pid);
	return WIFSTOPPED(*status);
}

/*
 * The process dies at any moment: what it had suspended is resumed long before the deadline. Every
 * other time it is stopped in a window first, so that it dies there for certain.
 */
static void test_killed(int nr_kills, bool without_pidfd)
{
	uint64_t random = 42;
	int i, status, inside = 0;

	for (i = 0; i < nr_kills; i++) {
		pid_t pid;

		kernel_reset();
		kernel->without_pidfd = without_pidfd;
		kernel->devices[FRONT].behaviour = SHORT_SLOW;
		kernel->devices[ORIGIN].behaviour = SHORT_SLOW;
		pid = start_windows(AMPLE_MS);
		while (!kernel->nr_calls)
			pause_ms(1, false);
		pause_ms((int)(next_random(&random) % 12), false);
		if (i % 2 && stop_soon(pid, &status))
			inside += any_suspended();
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		check_all_resumed(30000);
	}
	CHECK(inside > nr_kills / 8);
}

/* The same when the process dies: what it knew of the other table, the watchdog knows, too. */
static void test_killed_with_refusing_table(void)
{
	pid_t pid;
	int status;

	kernel_reset();
	kernel->devices[FRONT].behaviour = REFUSE;
	kernel->devices[ORIGIN].behaviour = SLOW;
	pid = start_windows(AMPLE_MS);
	CHECK(stop_soon(pid, &status));
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	check_all_resumed(30000);
	CHECK(!strcmp(kernel->devices[FRONT].loaded, "24576 253:1 7"));
}

/* A stopped process cannot resume: the watchdog does at the deadline, and again if it goes on. */
static void test_stopped(void)
{
	pid_t pid;
	int status;

	kernel_reset();
	kernel->devices[FRONT].behaviour = SHORT_SLOW;
	kernel->devices[ORIGIN].behaviour = SLOW;
	pid = start_windows(1500);
	while (stop_soon(pid, &status) && !any_suspended())
		kill(pid, SIGCONT);
	while (any_suspended())
		pause_ms(10, false);
	if (WIFSTOPPED(status)) {
		kill(pid, SIGCONT);
		CHECK(waitpid(pid, &status, 0) == pid);
	}
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == DMS_ERR_DEADLINE);
	check_all_resumed(30000);
}

/* A watchdog that is killed cannot vouch for the window: an error, and all resumed. */
static void test_watchdog_killed(void)
{
	struct dms_window_step steps[NR_STEPS];
	char command[128];
	pid_t killer;

	kernel_reset();
	kernel->devices[FRONT].behaviour = SLOW;
	killer = fork();
	CHECK(killer >= 0);
	if (!killer) {
		while (!kernel->nr_calls)
			pause_ms(1, false);
		snprintf(command, sizeof(command), "/proc/%d/task/%d/children", getppid(),
			 getppid());
		FILE *file = fopen(command, "re");
		int child;

		while (file && fscanf(file, "%d", &child) == 1)
			if (child != getpid())
				kill(child, SIGKILL);
		_exit(0);
	}
	CHECK_ERROR(run(steps, AMPLE_MS), DMS_ERR_DEADLINE);
	CHECK(!any_suspended());
	waitpid(killer, NULL, 0);
}

static enum dms_watchdog_kind hear(int fd)
{
	struct dms_watchdog_message message;

	CHECK(recv(fd, &message, sizeof(message), 0) == sizeof(message));
	return message.kind;
}

static void tell(int fd, enum dms_watchdog_kind kind, uint64_t deadline_ns)
{
	const struct dms_watchdog_message message = { .kind = kind, .deadline_ns = deadline_ns };

	CHECK(send(fd, &message, sizeof(message), 0) == sizeof(message));
}

/* A table that is loaded late, when the device goes on already, is not made live by it. */
static void test_if_suspended(void)
{
	struct fake_device *origin = &kernel->devices[ORIGIN];
	char process[16], thread[16], device[128];
	int fds[2], status;
	pid_t pid;

	kernel_reset();
	signal(DMS_WATCHDOG_SIGNAL, SIG_IGN);
	snprintf(process, sizeof(process), "%d", (int)getpid());
	snprintf(thread, sizeof(thread), "%d", (int)gettid());
	snprintf(device, sizeof(device), "!0:%s:origin", path);
	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) == 0);
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		dup2(fds[1], STDIN_FILENO);
		execl(program, program, process, thread, device, NULL);
		_exit(127);
	}
	close(fds[1]);
	CHECK(hear(fds[0]) == DMS_WATCHDOG_ARMED);
	origin->inactive = true;
	tell(fds[0], DMS_WATCHDOG_START, now_ns());
	pause_ms(100, false);
	CHECK(origin->inactive && !kernel->nr_calls);
	origin->suspended = true;
	while (origin->suspended)
		pause_ms(1, false);
	CHECK(!origin->inactive && kernel->nr_calls == 1);
	CHECK(kernel->calls[0].flags == DM_SKIP_LOCKFS_FLAG);
	origin->inactive = true;
	tell(fds[0], DMS_WATCHDOG_DONE, 0);
	CHECK(hear(fds[0]) == DMS_WATCHDOG_FIRED);
	CHECK(origin->inactive && kernel->nr_calls == 1);
	CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && !WEXITSTATUS(status));
	close(fds[0]);
	signal(DMS_WATCHDOG_SIGNAL, SIG_DFL);
}

/* Before it has threads: the kernel that the devices live in, whose file the first UUID names. */
static void watchdog_begin(const char *device)
{
	const char *begin = strchr(device, ':') + 1;

	snprintf(path, sizeof(path), "%.*s", (int)(strrchr(begin, ':') - begin), begin);
	kernel_map(path);
	if (kernel->without_pidfd)
		pidfd_open_number = NO_SYSTEM_CALL;
}

int main(int argc, char **argv)
{
	int fd;

	if (argc >= 4) {
		watchdog_begin(argv[3]);
		_exit(dms_watchdog_main(argc, argv));
	}
	fault.fd = -1;
	CHECK(readlink("/proc/self/exe", program, sizeof(program) - 1) > 0);
	strcpy(path, "/tmp/dmsnap-test-XXXXXX");
	fd = mkostemp(path, O_CLOEXEC);
	CHECK(fd >= 0 && ftruncate(fd, sizeof(struct kernel)) == 0);
	close(fd);
	kernel_map(path);
	/* Watchdogs outlive who started them, and are waited for then. */
	CHECK(!prctl(PR_SET_CHILD_SUBREAPER, 1));
	test_success();
	test_flush();
	test_failing_steps();
	test_refusing_table();
	test_exchange_that_hangs();
	test_exchange_that_is_late();
	test_exchange_that_is_refused();
	test_put_back();
	test_deadline(HANG, FRONT);
	test_deadline(HANG, ORIGIN);
	test_deadline(SLOW, FRONT);
	test_deadline(SLOW, ORIGIN);
	test_stuck_neighbour(STUCK);
	test_stuck_neighbour(STUCK_RESUME);
	test_signals();
	test_counters();
	test_held();
	test_refusals();
	test_watchdog_killed();
	test_stopped();
	test_killed(40, false);
	test_killed(8, true);
	test_killed_with_refusing_table();
	test_if_suspended();
	unlink(path);
	return 0;
}
