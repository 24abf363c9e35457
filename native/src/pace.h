/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How much the engine has in flight: it begins with little, and goes on to
 * what the media finish in 20 ms, or in twice the shortest time seen where even
 * that is longer. More would not be faster and would keep others waiting. It is
 * never more than they finish in a quarter of a second, so that a cancel comes
 * through however slow they are.
 */
#ifndef DMSNAP_SRC_PACE_H
#define DMSNAP_SRC_PACE_H

#include <stdbool.h>
#include <stdint.h>

#include <dmsnap/copy.h>

#include "rate.h"

#define DMS_COPY_PAGE_BYTES 4096u
#define DMS_COPY_MAX_MEMORY_BYTES (32u << 20)
#define DMS_COPY_REQUEST_BYTES (1u << 20)
#define DMS_COPY_MAX_REQUEST_BYTES (16u << 20)

/* Touching and pinning all buffers at once is worth it for so many times their size. */
#define DMS_PACE_REGISTER_TIMES 32u

struct dms_pace {
	/* What buffers are made for. */
	uint32_t slot_bytes; /* the largest request */
	uint32_t nr_slots;
	uint32_t multiple_bytes; /* of which every request but the last is a multiple */
	bool without_io_uring;
	/* What is allowed now. */
	bool fixed; /* by the caller's options */
	uint64_t limit_bytes;
	uint64_t in_flight_bytes;
	struct dms_rate rate;
	/* The measurement that is going on. */
	uint64_t begun_us;
	uint64_t finished_bytes;
	bool held_back; /* the limit, where the limit of bytes a second let more begin */
	uint64_t least_us; /* the shortest time that as much as the limit took; 0: not measured */
};

/*
 * From the options, checked, and what they leave open. buffers: how many of
 * slot_bytes a slot needs; usual_bytes: how much most requests will be, since
 * many small ones need many slots.
 */
struct dms_error *dms_pace_start(struct dms_pace *pace, const struct dms_copy_options *options,
				 uint32_t buffers, uint32_t multiple_bytes, uint64_t usual_bytes);
/* How large a request may be now. */
uint32_t dms_pace_request_bytes(const struct dms_pace *pace);
/* The same where all requests are to be of one size. */
uint32_t dms_pace_piece_bytes(const struct dms_pace *pace);
/* Whether more may be put in flight now. */
bool dms_pace_has_room(const struct dms_pace *pace);
/* Whether the limit of bytes a second lets more begin now. */
bool dms_pace_is_paid(const struct dms_pace *pace);
/* How long to wait for completions, when more may be started as soon as it is paid for, or not. */
int dms_pace_timeout_ms(const struct dms_pace *pace, bool may_start);
/* Wait until more is paid for, but not so long that a cancel is missed. */
void dms_pace_sleep(const struct dms_pace *pace);

void dms_pace_begin(struct dms_pace *pace, uint64_t bytes);
/* Count bytes against the limit of bytes a second. */
void dms_pace_charge(struct dms_pace *pace, uint64_t bytes);
void dms_pace_end(struct dms_pace *pace, uint64_t bytes);

#endif
