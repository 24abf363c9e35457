/* SPDX-License-Identifier: Apache-2.0 */
/* A limit of bytes a second, as a token bucket that holds a tenth of a second. */
#ifndef DMSNAP_SRC_RATE_H
#define DMSNAP_SRC_RATE_H

#include <stdint.h>

/* Work is cut so that a piece of it takes the limit no longer than this many milliseconds. */
#define DMS_RATE_PIECE_MS 50u

struct dms_rate {
	uint64_t bytes_per_second; /* 0: no limit */
	uint64_t free_us; /* when what was taken is paid for */
};

void dms_rate_start(struct dms_rate *rate, uint64_t bytes_per_second);
/* Milliseconds until the next piece may begin; 0: now. */
uint64_t dms_rate_wait_ms(const struct dms_rate *rate);
/* A piece begins. It may be larger than what the bucket holds: the next then waits longer. */
void dms_rate_take(struct dms_rate *rate, uint64_t bytes);

#endif
