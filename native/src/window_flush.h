/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DMSNAP_SRC_WINDOW_FLUSH_H
#define DMSNAP_SRC_WINDOW_FLUSH_H

#include <stddef.h>
#include <stdint.h>

#include <dmsnap/error.h>

/* Only tests define this: it stands for syncfs(2). */
int dms_syncfs_inject(int fd) __attribute__((weak, visibility("hidden")));

/*
 * Write file systems back until a pass over all of them was so short that
 * little can have become dirty meanwhile, which the freeze writes out. Writers
 * that are faster than their disk never let it come to that: so after a few
 * seconds it goes on only as long as every pass is clearly shorter than the one
 * before.
 */
struct dms_error *dms_window_flush(const int *fds, size_t nr_fds, uint32_t *nr_passes);

#endif
