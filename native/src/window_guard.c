// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE 1

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "window_guard.h"
#include "window_watchdog.h"

static void ignore_wake(int signal_number)
{
	(void)signal_number;
}

static bool has_locked_memory(void)
{
	static const char field[] = "VmLck:";
	char line[128];
	bool locked = false;
	FILE *file = fopen("/proc/self/status", "re");

	if (!file)
		return false;
	while (!locked && fgets(line, sizeof(line), file))
		locked = !strncmp(line, field, sizeof(field) - 1) &&
			 strtoul(line + sizeof(field) - 1, NULL, 10) > 0;
	fclose(file);
	return locked;
}

struct dms_error *dms_window_guard_begin(struct dms_window_guard *guard)
{
	static const int passed[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS };
	struct sigaction wake = { .sa_handler = ignore_wake }; /* no SA_RESTART */
	bool locked_before = has_locked_memory();
	sigset_t mask;
	size_t i;

	if (mlockall(MCL_CURRENT) < 0)
		return dms_error_create_os(errno, "locking the process in memory");
	guard->locked = !locked_before;
	sigemptyset(&wake.sa_mask);
	sigfillset(&mask);
	sigdelset(&mask, DMS_WATCHDOG_SIGNAL);
	for (i = 0; i < sizeof(passed) / sizeof(passed[0]); i++)
		sigdelset(&mask, passed[i]);
	sigaction(DMS_WATCHDOG_SIGNAL, &wake, &guard->old_action);
	pthread_sigmask(SIG_SETMASK, &mask, &guard->old_mask);
	return NULL;
}

void dms_window_guard_end(const struct dms_window_guard *guard)
{
	pthread_sigmask(SIG_SETMASK, &guard->old_mask, NULL);
	sigaction(DMS_WATCHDOG_SIGNAL, &guard->old_action, NULL);
	if (guard->locked)
		munlockall();
}
