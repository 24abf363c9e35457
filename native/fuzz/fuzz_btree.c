// SPDX-License-Identifier: Apache-2.0
/* A btree on its own. control: u64 root; u32 value_size - 1, modulo 64; u32 not used. */
#include <stdlib.h>

#include "../src/btree.h"
#include "../tests/image.h"
#include "../tests/test.h"
#include "fuzz.h"
#include "naive.h"

const struct fuzz_layout fuzz_layout = {
	.block_bytes = FUZZ_BLOCK_BYTES,
	.max_blocks = FUZZ_MAX_BLOCKS,
	.nr_kinds = 1,
	.kinds = { &fuzz_node_kind },
};

/* No node has more. */
#define MAX_ENTRIES (FUZZ_MAX_BLOCKS * 4096 / 9)
#define MAX_VALUE_BYTES 64

struct entry {
	uint64_t key;
	uint8_t value[MAX_VALUE_BYTES];
};

struct entries {
	uint32_t value_size;
	size_t count;
	struct entry *entries;
};

static void add(struct entries *entries, uint64_t key, const uint8_t *value)
{
	struct entry *entry = &entries->entries[entries->count++];

	CHECK(entries->count <= MAX_ENTRIES);
	entry->key = key;
	memcpy(entry->value, value, entries->value_size);
}

static struct dms_error *add_found(void *context, uint64_t blocknr, uint64_t key,
				   const uint8_t *value)
{
	CHECK(blocknr);
	add(context, key, value);
	return NULL;
}

static void add_naively(void *context, uint64_t key, const uint8_t *value)
{
	struct entries *entries = context;

	CHECK(!entries->count || key > entries->entries[entries->count - 1].key);
	add(entries, key, value);
}

static int compare_entries(const void *left, const void *right)
{
	uint64_t a = ((const struct entry *)left)->key, b = ((const struct entry *)right)->key;

	return (a > b) - (a < b);
}

static void compare(struct entries *found, const struct entries *expected)
{
	qsort(found->entries, found->count, sizeof(*found->entries), compare_entries);
	CHECK(found->count == expected->count);
	for (size_t i = 0; i < found->count; i++) {
		CHECK(found->entries[i].key == expected->entries[i].key);
		CHECK(!memcmp(found->entries[i].value, expected->entries[i].value,
			      found->value_size));
	}
}

static struct dms_error *walk_tree(int fd, uint64_t root, struct entries *found)
{
	_cleanup_metadata_walk_ struct dms_metadata_walk *walk = NULL;
	struct dms_block_io io;

	CHECK_OK(dms_block_io_init(&io, fd));
	CHECK_OK(dms_metadata_walk_create(&io, &walk));
	return dms_btree_walk(walk, "tree", root, found->value_size, add_found, found);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct entry entries[2][MAX_ENTRIES];
	struct entries found = { .entries = entries[0] }, expected = { .entries = entries[1] };
	struct naive_image image;
	struct dms_error *error;

	if (!fuzz_is_input(size))
		return 0;
	found.value_size = expected.value_size = get_le32(data + 8) % MAX_VALUE_BYTES + 1;
	size -= FUZZ_CONTROL_BYTES;
	image = (struct naive_image){ data + FUZZ_CONTROL_BYTES, size / IMAGE_BLOCK };
	error = walk_tree(fuzz_medium(image.bytes, size, 0, size), get_le64(data), &found);
	if (error) {
		fuzz_refused(error);
		return 0;
	}
	naive_btree(&image, get_le64(data), found.value_size, add_naively, &expected);
	compare(&found, &expected);
	return 0;
}
