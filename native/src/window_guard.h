/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DMSNAP_SRC_WINDOW_GUARD_H
#define DMSNAP_SRC_WINDOW_GUARD_H

#include <signal.h>
#include <stdbool.h>

#include <dmsnap/error.h>

struct dms_window_guard {
	sigset_t old_mask;
	struct sigaction old_action;
	bool locked; /* by us, and not before */
};

/*
 * From begin to end the process is in memory, and nothing but the watchdog
 * interrupts the calling thread: a suspend that another signal ended would be
 * a point lost. Signals that arrive are delivered after end.
 */
struct dms_error *dms_window_guard_begin(struct dms_window_guard *guard);
void dms_window_guard_end(const struct dms_window_guard *guard);

#endif
