/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The window: the suspends and resumes that make a point, run as bare
 * DM_DEV_SUSPEND ioctls on requests that were prepared beforehand. Inside it
 * nothing forks, allocates, logs or touches a disk. The last thing before it is
 * to write back the file systems that it freezes: whatever else is done in
 * between gives a busy writer time to make more dirty, which the freeze then
 * writes out.
 *
 * A watchdog process, locked in memory, is armed before the first suspend. It
 * resumes every device when the caller dies or the deadline passes.
 */
#ifndef DMSNAP_WINDOW_H
#define DMSNAP_WINDOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <dmsnap/error.h>

/* cffi: begin */
enum dms_window_action {
	DMS_WINDOW_SUSPEND = 0, /* freezes the file system, drains I/O */
	DMS_WINDOW_SUSPEND_NO_FREEZE = 1, /* DM_SKIP_LOCKFS_FLAG */
	DMS_WINDOW_RESUME = 2, /* swaps in an inactive table, when there is one */
	DMS_WINDOW_HOLD = 3, /* suspends without freezing, and leaves it so: the caller watches it */
};

struct dms_window_step {
	char uuid[129]; /* DM UUID: a device is never addressed by name here */
	enum dms_window_action action;
	uint32_t event_nr; /* udev cookie and flags, as libdevmapper encodes them; 0: none */
	/*
	 * Of a step that resumes: where the device leads, straight, when its table refuses to be
	 * resumed, as dm-era does that cannot write its metadata. 0 sectors: it stays suspended,
	 * and the watchdog tries until it is resumed, or is no more.
	 */
	uint64_t instead_sectors;
	uint32_t instead_major;
	uint32_t instead_minor;
	uint64_t instead_start_sectors;
	bool uevent_generated; /* result: DM_UEVENT_GENERATED_FLAG, or else complete the cookie */
	double seconds; /* result */
};

struct dms_window_result {
	double seconds; /* from before the first suspend until after the last resume */
	double flush_seconds; /* before that, with the watchdog armed */
	uint32_t nr_flushes; /* how often all file systems were written back */
};

/*
 * What a caller has to put a device back that refuses to be resumed: called in the window,
 * with the watchdog on guard, before the device leads elsewhere. What it returns is not
 * looked at: the device is.
 */
struct dms_window_put_back {
	int (*call)(void *context);
	void *context;
};

/*
 * What a device counts in the window: read when all is suspended, and before anything is resumed.
 * Then the devices that are suspended have completed all that they had begun.
 */
struct dms_window_counter {
	int stat_fd; /* /sys/dev/block/…/stat */
	bool known; /* result: it could be read */
	bool in_flight; /* result: it has begun what is not completed */
	uint64_t sectors_written; /* result: written and discarded, of 512 bytes */
};

/*
 * Write back the file systems that the descriptors in file_systems lie on until
 * little is left, after a few seconds only while every pass leaves less, and run
 * the steps in order. watchdog_path is the watchdog program's; put_back may be NULL.
 *
 * On success every step was run before the deadline and the watchdog
 * confirmed that it did nothing; suspended is what was to be held, and nothing
 * else. On any error, everything that was suspended
 * has been resumed, in reverse order, with its own table or what the step says
 * instead, unless the error says which could not be; that one the watchdog goes on
 * resuming. The snapshots among the steps may be active or not, and the moment they
 * hold is worth nothing. An inactive table of a device goes live with its resume, if
 * the suspend before it came to its end, however late; else it is inactive still.
 * Needs CAP_SYS_ADMIN. While it runs, the process is locked in memory, and
 * SIGINT and SIGTERM are held back until the last resume.
 */
struct dms_error *dms_window_run(struct dms_window_step *steps, size_t nr_steps,
				 const int *file_systems, size_t nr_file_systems,
				 uint32_t deadline_ms, const char *watchdog_path,
				 const struct dms_window_put_back *put_back,
				 struct dms_window_counter *counters, size_t nr_counters,
				 struct dms_window_result *result);
/* cffi: end */

#endif
