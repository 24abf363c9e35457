// SPDX-License-Identifier: Apache-2.0
/* An array on its own. control: u64 root; u32 value_size - 1, modulo 64; u32 not used. */
#include <stdlib.h>

#include "../src/array.h"
#include "../tests/image.h"
#include "../tests/test.h"
#include "fuzz.h"
#include "naive.h"

const struct fuzz_layout fuzz_layout = {
	.block_bytes = FUZZ_BLOCK_BYTES,
	.max_blocks = FUZZ_MAX_BLOCKS,
	.nr_kinds = 2,
	.kinds = { &fuzz_node_kind, &fuzz_array_kind },
};

#define MAX_ARRAY_BYTES ((size_t)FUZZ_MAX_BLOCKS * FUZZ_BLOCK_BYTES)

struct values {
	uint32_t value_size;
	uint64_t count;
	uint8_t *bytes;
};

static struct dms_error *add_run(void *context, const struct dms_array_run *run)
{
	struct values *values = context;

	CHECK(run->blocknr);
	CHECK((run->first + run->nr_entries) * values->value_size <= MAX_ARRAY_BYTES);
	memcpy(values->bytes + run->first * values->value_size, run->values,
	       (size_t)run->nr_entries * values->value_size);
	values->count += run->nr_entries;
	return NULL;
}

static void compare_value(void *context, uint64_t index, const uint8_t *value)
{
	const struct values *found = context;

	CHECK(index < found->count);
	CHECK(!memcmp(found->bytes + index * found->value_size, value, found->value_size));
}

static struct dms_error *walk_array(int fd, uint64_t root, struct values *found)
{
	_cleanup_metadata_walk_ struct dms_metadata_walk *walk = NULL;
	struct dms_block_io io;
	uint64_t nr_entries;

	CHECK_OK(dms_block_io_init(&io, fd));
	CHECK_OK(dms_metadata_walk_create(&io, &walk));
	DMS_TRY(dms_array_walk(walk, "array", root, found->value_size, add_run, found,
			       &nr_entries));
	CHECK(nr_entries == found->count);
	return NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t bytes[MAX_ARRAY_BYTES];
	struct values found = { .bytes = bytes };
	struct naive_image image;
	struct dms_error *error;

	if (!fuzz_is_input(size))
		return 0;
	found.value_size = get_le32(data + 8) % 64 + 1;
	size -= FUZZ_CONTROL_BYTES;
	image = (struct naive_image){ data + FUZZ_CONTROL_BYTES, size / IMAGE_BLOCK };
	error = walk_array(fuzz_medium(image.bytes, size, 0, size), get_le64(data), &found);
	if (error) {
		fuzz_refused(error);
		return 0;
	}
	CHECK(naive_array(&image, get_le64(data), found.value_size, compare_value, &found) ==
	      found.count);
	return 0;
}
