// SPDX-License-Identifier: Apache-2.0
/*
 * Thin-pool metadata: the devices, what each maps, and in what two of them differ.
 * control: u32 odd: as of the metadata snapshot; u32, u32 the two devices, modulo their number;
 * u32 not used.
 */
#include <dmsnap/checksum.h>
#include <dmsnap/thin.h>

#include "../tests/image.h"
#include "../tests/test.h"
#include "fuzz.h"
#include "naive.h"

#define THIN_SALT 160774
#define TIME_BITS 24
/* Of a device: no leaf has more. */
#define MAX_BLOCKS (FUZZ_MAX_BLOCKS * 252)

static bool is_superblock(const uint8_t *block)
{
	return get_le32(block) == dms_bm_checksum(block + 4, IMAGE_BLOCK - 4, THIN_SALT);
}

static void seal_superblock(uint8_t *block)
{
	put_le32(block, dms_bm_checksum(block + 4, IMAGE_BLOCK - 4, THIN_SALT));
}

static const struct fuzz_kind superblock_kind = {
	.is_sealed = is_superblock,
	.seal = seal_superblock,
	.blocknr_at = 8,
	/* flags, blocknr, magic, version, time, trans_id, held_root; space maps; roots; sizes, features */
	.fields = { { 4, 4 }, { 8, 8 }, { 32, 8 }, { 40, 4 }, { 44, 4 }, { 48, 8 }, { 56, 8 },
		    { 64, 8 }, { 72, 8 }, { 320, 8 }, { 328, 8 }, { 336, 4 }, { 340, 4 },
		    { 344, 8 }, { 352, 4 }, { 356, 4 }, { 360, 4 } },
};

const struct fuzz_layout fuzz_layout = {
	.block_bytes = FUZZ_BLOCK_BYTES,
	.max_blocks = FUZZ_MAX_BLOCKS,
	.nr_kinds = 2,
	.kinds = { &fuzz_node_kind, &superblock_kind },
};

/* What one device maps, block by block, in ascending order. */
struct device {
	size_t count;
	struct dms_thin_mapping blocks[MAX_BLOCKS];
};

static void add_block(void *context, uint64_t key, const uint8_t *value)
{
	struct device *device = context;
	uint64_t packed = get_le64(value);

	CHECK(device->count < MAX_BLOCKS);
	CHECK(!device->count || device->blocks[device->count - 1].thin_block < key);
	device->blocks[device->count++] = (struct dms_thin_mapping){
		.thin_block = key,
		.data_block = packed >> TIME_BITS,
		.nr_blocks = 1,
		.time = packed & ((1u << TIME_BITS) - 1),
	};
}

static bool goes_on(const struct dms_thin_mapping *mapping, const struct dms_thin_mapping *next)
{
	return mapping->thin_block + mapping->nr_blocks == next->thin_block &&
	       mapping->data_block + mapping->nr_blocks == next->data_block &&
	       mapping->time == next->time;
}

static void compare_mappings(const struct dms_thin_mappings *mappings, const struct device *device,
			     uint64_t data_nr_blocks)
{
	const struct dms_thin_mapping *list = dms_thin_mappings_list(mappings);
	size_t block = 0;

	for (size_t i = 0; i < dms_thin_mappings_count(mappings); i++) {
		CHECK(list[i].nr_blocks && list[i].nr_blocks <= device->count - block);
		CHECK(!i || !goes_on(&list[i - 1], &list[i]));
		for (uint64_t n = 0; n < list[i].nr_blocks; n++, block++) {
			CHECK(device->blocks[block].thin_block == list[i].thin_block + n);
			CHECK(device->blocks[block].data_block == list[i].data_block + n);
			CHECK(device->blocks[block].data_block < data_nr_blocks);
			CHECK(device->blocks[block].time == list[i].time);
		}
	}
	CHECK(block == device->count);
}

/* The bytes that a set must have, block by block, in ascending order. */
struct expected {
	const struct dms_extent_set *set;
	uint64_t block_bytes;
	uint64_t bytes;
	size_t extent;
};

static uint64_t end_of(const struct dms_extent *extent)
{
	return extent->offset_bytes + extent->length_bytes;
}

static void expect(struct expected *expected, uint64_t block)
{
	const struct dms_extent *extents = dms_extent_set_extents(expected->set);
	size_t count = dms_extent_set_count(expected->set);
	uint64_t start = block * expected->block_bytes;

	while (expected->extent < count && start >= end_of(&extents[expected->extent]))
		expected->extent++;
	CHECK(expected->extent < count && start >= extents[expected->extent].offset_bytes);
	CHECK(expected->block_bytes <= end_of(&extents[expected->extent]) - start);
	expected->bytes += expected->block_bytes;
}

static void expect_end(const struct expected *expected)
{
	fuzz_check_extents(expected->set, INT64_MAX);
	CHECK(dms_extent_set_bytes(expected->set) == expected->bytes);
}

static void check_extents(const struct dms_thin_mappings *mappings, const struct device *device,
			  uint64_t block_bytes)
{
	struct dms_extent_set *set;
	struct expected expected = { .block_bytes = block_bytes };

	CHECK_OK(dms_thin_mappings_extents(mappings, &set));
	expected.set = set;
	for (size_t i = 0; i < device->count; i++)
		expect(&expected, device->blocks[i].thin_block);
	expect_end(&expected);
	dms_extent_set_destroy(set);
}

/* Whether the device can be read; then it is in device, and read rightly. */
static bool read_device(const struct dms_thin_metadata *metadata, const struct naive_image *image,
			const struct dms_thin_device *found, struct device *device)
{
	const struct dms_thin_superblock *superblock = dms_thin_metadata_superblock(metadata);
	struct dms_thin_mappings *mappings;
	struct dms_error *error = dms_thin_mappings_read(metadata, found->dev_id, &mappings);

	if (error) {
		fuzz_refused(error);
		return false;
	}
	device->count = 0;
	naive_btree(image, found->mapping_root, 8, add_block, device);
	CHECK(device->count == found->mapped_blocks);
	compare_mappings(mappings, device, superblock->data_nr_blocks);
	check_extents(mappings, device, superblock->data_block_size * 512ull);
	dms_thin_mappings_destroy(mappings);
	return true;
}

static void compare_difference(const struct dms_thin_difference *difference,
			       const struct device *from, const struct device *to,
			       uint64_t block_bytes)
{
	struct expected added = { .set = difference->added, .block_bytes = block_bytes };
	struct expected removed = { .set = difference->removed, .block_bytes = block_bytes };
	struct expected changed = { .set = difference->changed, .block_bytes = block_bytes };
	size_t i = 0, j = 0;

	while (i < from->count || j < to->count) {
		uint64_t old = i < from->count ? from->blocks[i].thin_block : UINT64_MAX;
		uint64_t new = j < to->count ? to->blocks[j].thin_block : UINT64_MAX;

		if (old < new)
			expect(&removed, old);
		else if (new < old)
			expect(&added, new);
		else if (from->blocks[i].data_block != to->blocks[j].data_block)
			expect(&changed, old);
		i += old <= new;
		j += new <= old;
	}
	expect_end(&added);
	expect_end(&removed);
	expect_end(&changed);
}

/* What the two share is not read, so a difference can be had of trees that are damaged there. */
static void ask_difference(const struct dms_thin_metadata *metadata, uint32_t from_id,
			   uint32_t to_id, const struct device *from, const struct device *to)
{
	const struct dms_thin_superblock *superblock = dms_thin_metadata_superblock(metadata);
	struct dms_thin_difference difference;
	struct dms_error *error = dms_thin_difference(metadata, from_id, to_id, &difference);

	if (error) {
		fuzz_refused(error);
		return;
	}
	if (from && to)
		compare_difference(&difference, from, to, superblock->data_block_size * 512ull);
	dms_extent_set_destroy(difference.added);
	dms_extent_set_destroy(difference.removed);
	dms_extent_set_destroy(difference.changed);
}

static void ask(const struct dms_thin_metadata *metadata, const struct naive_image *image,
		const uint8_t *control)
{
	static struct device from, to;
	const struct dms_thin_device *devices = dms_thin_metadata_devices(metadata);
	size_t nr = dms_thin_metadata_nr_devices(metadata);
	const struct dms_thin_device *one, *other;
	bool one_is_whole, other_is_whole;

	for (size_t i = 1; i < nr; i++)
		CHECK(devices[i - 1].dev_id < devices[i].dev_id);
	if (!nr)
		return;
	one = &devices[get_le32(control + 4) % nr];
	other = &devices[get_le32(control + 8) % nr];
	one_is_whole = read_device(metadata, image, one, &from);
	other_is_whole = read_device(metadata, image, other, &to);
	ask_difference(metadata, one->dev_id, other->dev_id, one_is_whole ? &from : NULL,
		       other_is_whole ? &to : NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct dms_thin_metadata *metadata;
	struct naive_image image;
	struct dms_error *error;
	bool from_snapshot;

	if (!fuzz_is_input(size))
		return 0;
	from_snapshot = data[0] & 1;
	size -= FUZZ_CONTROL_BYTES;
	image = (struct naive_image){ data + FUZZ_CONTROL_BYTES, size / IMAGE_BLOCK };
	error = dms_thin_metadata_open(fuzz_medium(image.bytes, size, 0, size), from_snapshot,
				       &metadata);
	if (error) {
		if (error->code == DMS_ERR_NO_METADATA_SNAPSHOT)
			CHECK(from_snapshot);
		fuzz_refused(error);
		return 0;
	}
	ask(metadata, &image, data);
	dms_thin_metadata_close(metadata);
	return 0;
}
