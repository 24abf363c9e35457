/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the window and its watchdog say to each other, over a SOCK_SEQPACKET
 * pair that is the watchdog's standard input:
 *
 *   watchdog: ARMED, or FAILED with an errno
 *   window:   START with the deadline, before the first suspend
 *   window:   DONE, after its last resume, or LEFT where a device refuses to be resumed
 *   watchdog: CLEAN, or FIRED when it resumed anything; then it exits. To LEFT it answers
 *             FIRED at once, interrupts nobody any more, and resumes until it has
 *
 * Between START and DONE the watchdog fires at the deadline, or when the window's
 * process is gone or has closed its end: it resumes every device while that is
 * suspended, each independently of the others, and does not end before it has.
 * Arguments: the window's process and thread, then for every device EVENT_NR:UUID,
 * or EVENT_NR,SECTORS,MAJOR,MINOR,START:UUID where it leads to another device, from
 * sector START, when its table refuses to be resumed; behind a "!" where it is
 * suspended without freezing.
 */
#ifndef DMSNAP_SRC_WINDOW_WATCHDOG_H
#define DMSNAP_SRC_WINDOW_WATCHDOG_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum dms_watchdog_kind {
	DMS_WATCHDOG_ARMED = 1,
	DMS_WATCHDOG_FAILED = 2,
	DMS_WATCHDOG_START = 3,
	DMS_WATCHDOG_DONE = 4,
	DMS_WATCHDOG_CLEAN = 5,
	DMS_WATCHDOG_FIRED = 6,
	DMS_WATCHDOG_LEFT = 7,
};

struct dms_watchdog_message {
	uint32_t kind;
	int32_t errnum; /* FAILED */
	uint64_t deadline_ns; /* START: CLOCK_MONOTONIC */
};

#define DMS_WATCHDOG_DEVICE_BYTES 232 /* of one !EVENT_NR,SECTORS,MAJOR,MINOR,START:UUID */
/*
 * Interrupts a suspend that waits for I/O: it holds the device's lock, behind
 * which a resume would wait. The window handles it by doing nothing.
 */
#define DMS_WATCHDOG_SIGNAL (SIGRTMAX - 2)

/* The window's end of it: */

struct dms_error;

struct dms_watchdog {
	pid_t process; /* 0: none */
	int fd;
};

struct dms_watchdog_device {
	const char *uuid;
	uint32_t event_nr;
	uint64_t instead_sectors; /* 0: it has no other table than its own */
	uint32_t instead_major;
	uint32_t instead_minor;
	uint64_t instead_start_sectors;
	bool without_freeze;
};

/* Start the program and wait until it is armed. */
struct dms_error *dms_watchdog_arm(struct dms_watchdog *watchdog, const char *path,
				   const struct dms_watchdog_device *devices, size_t nr_devices);
struct dms_error *dms_watchdog_start(const struct dms_watchdog *watchdog, uint64_t deadline_ns);
/*
 * Say that the window is over. DMS_ERR_DEADLINE unless the watchdog answers
 * that it did nothing.
 */
struct dms_error *dms_watchdog_finish(const struct dms_watchdog *watchdog);
/* Leave what is suspended to it: it goes on until that is resumed, whatever becomes of us. */
void dms_watchdog_leave(struct dms_watchdog *watchdog);
/* Reap it; without START it exits by itself. */
void dms_watchdog_dismiss(struct dms_watchdog *watchdog);

#endif
