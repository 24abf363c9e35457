// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE 1

#include <errno.h>
#include <stdbool.h>
#include <time.h>
#include <unistd.h>

#include "window_flush.h"

/* A pass that finds nothing takes about a millisecond: the journal's commit. */
#define SHORT_PASS_NS 2000000ull
#define ENOUGH_NS 3000000000ull

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

static struct dms_error *flush_all(const int *fds, size_t nr_fds)
{
	size_t i;

	for (i = 0; i < nr_fds; i++)
		if ((dms_syncfs_inject ? dms_syncfs_inject(fds[i]) : syncfs(fds[i])) < 0)
			return dms_error_create_os(errno,
						   "writing back file system %zu of %zu"
						   " before the window", i + 1, nr_fds);
	return NULL;
}

/* Is another pass worth its time? Each that is clearly shorter brings the end nearer. */
static bool go_on(uint64_t before_ns, uint64_t last_ns, uint64_t all_ns)
{
	if (last_ns <= SHORT_PASS_NS)
		return false;
	return all_ns < ENOUGH_NS || last_ns < before_ns - before_ns / 4;
}

struct dms_error *dms_window_flush(const int *fds, size_t nr_fds, uint32_t *nr_passes)
{
	uint64_t begin = now_ns(), pass_begin, end = begin, before_ns, last_ns = UINT64_MAX;
	struct dms_error *error = NULL;

	*nr_passes = 0;
	if (!nr_fds)
		return NULL;
	do {
		before_ns = last_ns;
		pass_begin = end;
		error = flush_all(fds, nr_fds);
		end = now_ns();
		last_ns = end - pass_begin;
		(*nr_passes)++;
	} while (!error && go_on(before_ns, last_ns, end - begin));
	return error;
}
