/* SPDX-License-Identifier: Apache-2.0 */
/* A volume and its replica, with a device that is larger than the replica. */
#ifndef DMSNAP_TESTS_COPY_SIDES_H
#define DMSNAP_TESTS_COPY_SIDES_H

#include <dmsnap/copy.h>

#include "../src/exception_store_writer.h"
#include "engine_test.h"

#define VOLUME ((2u << 20) + 512u * 5) /* ends inside a page */
#define BEHIND (1u << 20) /* what lies behind the replica on its device */

static struct dms_copy_options options;
static int direct;

struct sides {
	int source;
	int destination;
	char *new;
	char *old;
};

static inline void sides_open(struct sides *sides, uint64_t size, unsigned int pages_changed,
			      uint64_t seed)
{
	unsigned int i;

	sides->source = scratch_file(size, 0, direct);
	sides->destination = scratch_file(size + BEHIND, 0x5a, direct);
	sides->new = malloc(size);
	sides->old = malloc(size);
	fill_random(sides->old, size, seed);
	memcpy(sides->new, sides->old, size);
	for (i = 0; i < pages_changed; i++)
		sides->new[next_random(&seed) % size] ^= 0x40;
	put(sides->source, 0, sides->new, size);
	put(sides->destination, 0, sides->old, size);
}

static inline void sides_close(struct sides *sides)
{
	close(sides->source);
	close(sides->destination);
	free(sides->new);
	free(sides->old);
}

static inline struct dms_extent_set *whole(uint64_t size)
{
	struct dms_extent_set *set;

	CHECK_OK(dms_extent_set_create(&set));
	CHECK_OK(dms_extent_set_add(set, 0, size));
	return set;
}

static inline void check_content(int fd, const char *expected, uint64_t size)
{
	char *all = contents(fd, 0, size + BEHIND);
	uint64_t i;

	CHECK(!memcmp(all, expected, size));
	for (i = size; i < size + BEHIND; i++)
		CHECK(all[i] == 0x5a);
	free(all);
}

static inline bool has_valid_header(int fd, uint64_t offset)
{
	char *header = contents(fd, offset, 4096);
	uint32_t magic;

	memcpy(&magic, header, sizeof(magic));
	free(header);
	return magic == DMS_STORE_MAGIC || !magic;
}

#endif
