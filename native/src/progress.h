/* SPDX-License-Identifier: Apache-2.0 */
/* Calls the caller's progress callback about ten times a second. */
#ifndef DMSNAP_SRC_PROGRESS_H
#define DMSNAP_SRC_PROGRESS_H

#include <stdint.h>

#include <dmsnap/copy.h>

#define DMS_PROGRESS_INTERVAL_MS 100

struct dms_progress {
	dms_progress_fn function; /* may be NULL */
	void *context;
	uint64_t next_ms;
};

void dms_progress_start(struct dms_progress *progress, const struct dms_copy_options *options);
/* Call back when it is time; DMS_ERR_CANCELLED when the caller asked to stop. */
struct dms_error *dms_progress_report(struct dms_progress *progress, uint64_t bytes_done);
/* Call back now. */
struct dms_error *dms_progress_report_now(struct dms_progress *progress, uint64_t bytes_done);

#endif
