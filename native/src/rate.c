// SPDX-License-Identifier: Apache-2.0
#include "io_queue.h"
#include "rate.h"

#define BURST_US 100000u
#define US_PER_S 1000000u
#define US_PER_MS 1000u

void dms_rate_start(struct dms_rate *rate, uint64_t bytes_per_second)
{
	rate->bytes_per_second = bytes_per_second;
	rate->free_us = dms_io_clock_us();
}

uint64_t dms_rate_wait_ms(const struct dms_rate *rate)
{
	uint64_t now = rate->bytes_per_second ? dms_io_clock_us() : 0;

	if (!rate->bytes_per_second || rate->free_us <= now)
		return 0;
	return (rate->free_us - now + US_PER_MS - 1) / US_PER_MS;
}

void dms_rate_take(struct dms_rate *rate, uint64_t bytes)
{
	uint64_t now;

	if (!rate->bytes_per_second)
		return;
	now = dms_io_clock_us();
	/* What was not used is kept for a moment, not for ever. */
	if (rate->free_us + BURST_US < now)
		rate->free_us = now - BURST_US;
	rate->free_us += bytes * US_PER_S / rate->bytes_per_second;
}
