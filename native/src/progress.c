// SPDX-License-Identifier: Apache-2.0
#include <stddef.h>

#include "io_queue.h"
#include "progress.h"

void dms_progress_start(struct dms_progress *progress, const struct dms_copy_options *options)
{
	progress->function = options ? options->progress : NULL;
	progress->context = options ? options->progress_context : NULL;
	progress->next_ms = dms_io_clock_ms() + DMS_PROGRESS_INTERVAL_MS;
}

struct dms_error *dms_progress_report_now(struct dms_progress *progress, uint64_t bytes_done)
{
	if (!progress->function)
		return NULL;
	progress->next_ms = dms_io_clock_ms() + DMS_PROGRESS_INTERVAL_MS;
	if (progress->function(progress->context, bytes_done))
		return dms_error_create(DMS_ERR_CANCELLED, "cancelled after %llu bytes",
					(unsigned long long)bytes_done);
	return NULL;
}

struct dms_error *dms_progress_report(struct dms_progress *progress, uint64_t bytes_done)
{
	if (!progress->function || dms_io_clock_ms() < progress->next_ms)
		return NULL;
	return dms_progress_report_now(progress, bytes_done);
}
