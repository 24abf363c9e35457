/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DMSNAP_SRC_WINDOW_COUNTERS_H
#define DMSNAP_SRC_WINDOW_COUNTERS_H

#include <stddef.h>

#include <dmsnap/window.h>

/*
 * Read what devices count, while nothing moves. Nothing is allocated, by the kernel
 * neither: it keeps the page for a file of sysfs that was read once (fs/seq_file.c,
 * seq_read_iter), which is what the first call is for, before the window. A counter
 * that cannot be read is not known; that is no reason to fail.
 */
void dms_window_count(struct dms_window_counter *counters, size_t nr_counters);

#endif
