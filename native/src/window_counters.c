// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE 1

#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#include "window_counters.h"

/* Fields of /sys/dev/block/…/stat, from 0 (Documentation/block/stat.rst). */
enum { WRITTEN = 6, IN_FLIGHT = 8, DISCARDED = 13, NR_FIELDS = 14 };

/* Seventeen numbers of up to twenty digits. */
#define STAT_BYTES 512

static bool parse(const char *text, uint64_t *fields)
{
	char *end;
	int i;

	for (i = 0; i < NR_FIELDS; i++, text = end) {
		fields[i] = strtoull(text, &end, 10);
		if (end == text)
			return false;
	}
	return true;
}

static void count(struct dms_window_counter *counter)
{
	uint64_t fields[NR_FIELDS];
	char text[STAT_BYTES];
	ssize_t length = pread(counter->stat_fd, text, sizeof(text) - 1, 0);

	counter->known = false;
	if (length <= 0)
		return;
	text[length] = '\0';
	if (!parse(text, fields))
		return;
	counter->sectors_written = fields[WRITTEN] + fields[DISCARDED];
	counter->in_flight = fields[IN_FLIGHT] != 0;
	counter->known = true;
}

void dms_window_count(struct dms_window_counter *counters, size_t nr_counters)
{
	size_t i;

	for (i = 0; i < nr_counters; i++)
		count(&counters[i]);
}
