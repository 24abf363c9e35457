/* SPDX-License-Identifier: Apache-2.0 */
/* One transfer of a request: how much of it, what its result means, and doing it here and now. */
#ifndef DMSNAP_SRC_IO_TRANSFER_H
#define DMSNAP_SRC_IO_TRANSFER_H

#include <stdbool.h>
#include <sys/types.h>

#include "io_queue.h"

/* Forget what an earlier use of the request left. */
void dms_io_transfer_begin(struct dms_io_request *request);
/* How much of what is left to transfer now; a negative errno is an injected error. */
ssize_t dms_io_transfer_length(const struct dms_io_request *request);
/*
 * Take in the result of one transfer; true when the request is complete,
 * false when the rest of it has to be transferred.
 */
bool dms_io_transfer_account(struct dms_io_request *request, ssize_t result);
/* All of the request, by pread() or pwrite(). */
void dms_io_transfer_run(struct dms_io_request *request);

#endif
