// SPDX-License-Identifier: Apache-2.0
/*
 * Maps of file systems, out of the answers of a kernel that is made up here:
 * what real ones answer is tested in the lab.
 */
#define _GNU_SOURCE 1

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/btrfs_tree.h>
#include <linux/fsmap.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <dmsnap/fs_map.h>

#include "../src/cleanup.h"
#include "../src/fs_ioctl.h"
#include "test.h"

#define PAGE 4096ull
#define GIB (1ull << 30)
#define DEVID 3

struct item {
	uint64_t objectid;
	uint32_t type;
	uint64_t offset;
	uint8_t data[256];
	uint32_t length;
};

/* What the kernel would say. */
static struct {
	const struct fsmap *records;
	uint32_t nr_records;
	uint32_t oflags;
	const struct item *chunks, *extents;
	size_t nr_chunks, nr_extents;
	int looks_before_last; /* at the chunks, until there is the last of them */
	uint64_t incompat, num_devices, device_bytes;
	int failure; /* of every call, from the countdown-th on */
	int countdown;
	int calls;
} kernel;

static int give_records(struct fsmap_head *head)
{
	const struct fsmap *low = &head->fmh_keys[0];
	uint32_t i = 0;

	CHECK(head->fmh_keys[1].fmr_physical == UINT64_MAX);
	CHECK(head->fmh_count);
	if (low->fmr_length)
		while (i < kernel.nr_records && kernel.records[i].fmr_physical <= low->fmr_physical)
			i++;
	for (head->fmh_entries = 0; i < kernel.nr_records && head->fmh_entries < head->fmh_count;
	     i++) {
		struct fsmap *record = &head->fmh_recs[head->fmh_entries++];

		*record = kernel.records[i];
		if (i + 1 == kernel.nr_records)
			record->fmr_flags |= FMR_OF_LAST;
	}
	head->fmh_oflags = kernel.oflags;
	return 0;
}

static bool is_at_least(const struct item *item, const struct btrfs_ioctl_search_key *key)
{
	if (item->objectid != key->min_objectid)
		return item->objectid > key->min_objectid;
	if (item->type != key->min_type)
		return item->type > key->min_type;
	return item->offset >= key->min_offset;
}

static int give_items(struct btrfs_ioctl_search_args_v2 *search)
{
	bool is_chunks = search->key.tree_id == BTRFS_CHUNK_TREE_OBJECTID;
	const struct item *items = is_chunks ? kernel.chunks : kernel.extents;
	size_t count = is_chunks ? kernel.nr_chunks : kernel.nr_extents;
	size_t position = 0, i;
	uint32_t given = 0;

	CHECK(is_chunks || search->key.tree_id == BTRFS_EXTENT_TREE_OBJECTID);
	if (is_chunks && kernel.looks_before_last) {
		count--;
		kernel.looks_before_last -= !search->key.min_objectid;
	}
	for (i = 0; i < count; i++) {
		const struct item *item = &items[i];
		struct btrfs_ioctl_search_header header = {
			.objectid = item->objectid, .type = item->type, .offset = item->offset,
			.len = item->length,
		};

		if (!is_at_least(item, &search->key))
			continue;
		if (position + sizeof(header) + item->length > search->buf_size)
			break;
		memcpy(search->buf + position, &header, sizeof(header));
		memcpy(search->buf + position + sizeof(header), item->data, item->length);
		position += sizeof(header) + item->length;
		given++;
	}
	search->key.nr_items = given;
	return 0;
}

int dms_fs_inject(int fd, unsigned long request, void *argument)
{
	(void)fd;
	if (++kernel.calls >= kernel.countdown && kernel.failure)
		return -kernel.failure;
	switch (request) {
	case FS_IOC_GETFSMAP:
		return give_records(argument);
	case BTRFS_IOC_TREE_SEARCH_V2:
		return give_items(argument);
	case BTRFS_IOC_GET_FEATURES:
		((struct btrfs_ioctl_feature_flags *)argument)->incompat_flags = kernel.incompat;
		return 0;
	case BTRFS_IOC_FS_INFO:
		*(struct btrfs_ioctl_fs_info_args *)argument = (struct btrfs_ioctl_fs_info_args){
			.max_id = DEVID, .num_devices = kernel.num_devices, .nodesize = 16384,
		};
		return 0;
	case BTRFS_IOC_DEV_INFO:
		CHECK(((struct btrfs_ioctl_dev_info_args *)argument)->devid == DEVID);
		((struct btrfs_ioctl_dev_info_args *)argument)->total_bytes = kernel.device_bytes;
		return 0;
	default:
		return -ENOTTY;
	}
}

static uint32_t this_device(int fd)
{
	struct stat status;

	CHECK(fstat(fd, &status) == 0);
	return (minor(status.st_dev) & 0xff) | major(status.st_dev) << 8 |
	       (minor(status.st_dev) & ~0xffu) << 12;
}

static void check_extents(const struct dms_extent_set *set, const struct dms_extent *expected,
			  size_t count)
{
	const struct dms_extent *extents = dms_extent_set_extents(set);
	size_t i;

	CHECK(dms_extent_set_count(set) == count);
	for (i = 0; i < count; i++) {
		CHECK(extents[i].offset_bytes == expected[i].offset_bytes);
		CHECK(extents[i].length_bytes == expected[i].length_bytes);
	}
}

/* Only what is said to be free, of this device, counts: owners, gaps and other devices do not. */
static void test_records(int fd)
{
	const uint32_t device = this_device(fd);
	const uint32_t special = FMR_OF_SPECIAL_OWNER;
	const struct fsmap records[] = {
		{ .fmr_device = device, .fmr_flags = special, .fmr_owner = FMR_OWN_UNKNOWN,
		  .fmr_physical = 0, .fmr_length = 8 * PAGE },
		{ .fmr_device = device, .fmr_flags = special, .fmr_owner = FMR_OWN_FREE,
		  .fmr_physical = 8 * PAGE, .fmr_length = 2 * PAGE },
		{ .fmr_device = device, .fmr_flags = special, .fmr_owner = FMR_OWN_FREE,
		  .fmr_physical = 10 * PAGE, .fmr_length = PAGE },
		/* A file whose inode has the number that free space has. */
		{ .fmr_device = device, .fmr_owner = FMR_OWN_FREE, .fmr_physical = 11 * PAGE,
		  .fmr_length = PAGE },
		{ .fmr_device = device, .fmr_flags = special, .fmr_owner = FMR_OWN_FREE,
		  .fmr_physical = 20 * PAGE, .fmr_length = PAGE },
		{ .fmr_device = device + 1, .fmr_flags = special, .fmr_owner = FMR_OWN_FREE,
		  .fmr_physical = 40 * PAGE, .fmr_length = 9 * PAGE },
	};
	const struct dms_extent expected[] = { { 8 * PAGE, 3 * PAGE }, { 20 * PAGE, PAGE } };
	struct dms_extent_set *unused;

	kernel.records = records;
	kernel.nr_records = 6;
	kernel.oflags = FMH_OF_DEV_T;
	CHECK_OK(dms_fs_map_unused(fd, 64 * PAGE, &unused));
	check_extents(unused, expected, 2);
	dms_extent_set_destroy(unused);
	CHECK_MESSAGE(dms_fs_map_unused(fd, 20 * PAGE, &unused), DMS_ERR_UNSUPPORTED,
		      "out of place");
	kernel.oflags = 0;
	CHECK_MESSAGE(dms_fs_map_unused(fd, 64 * PAGE, &unused), DMS_ERR_UNSUPPORTED,
		      "does not name the devices");
	kernel.nr_records = 0;
	CHECK_OK(dms_fs_map_unused(fd, 64 * PAGE, &unused));
	check_extents(unused, NULL, 0);
	dms_extent_set_destroy(unused);
}

static void test_records_out_of_place(int fd)
{
	struct fsmap records[2];
	struct dms_extent_set *unused;
	size_t i;

	kernel.records = records;
	kernel.nr_records = 2;
	kernel.oflags = FMH_OF_DEV_T;
	for (i = 0; i < 3; i++) {
		static const struct dms_extent second[] = {
			{ 3 * PAGE, PAGE }, { 0, PAGE }, { UINT64_MAX - PAGE, 4 * PAGE },
		};

		records[0] = (struct fsmap){ .fmr_device = this_device(fd), .fmr_physical = PAGE,
					     .fmr_length = 3 * PAGE };
		records[1] = (struct fsmap){ .fmr_device = this_device(fd),
					     .fmr_flags = FMR_OF_SPECIAL_OWNER,
					     .fmr_owner = FMR_OWN_FREE,
					     .fmr_physical = second[i].offset_bytes,
					     .fmr_length = second[i].length_bytes };
		CHECK_MESSAGE(dms_fs_map_unused(fd, 64 * PAGE, &unused), DMS_ERR_UNSUPPORTED,
			      "out of place");
	}
}

/* More records than one call takes. */
static void test_many_records(int fd)
{
	const uint32_t count = 70001;
	struct fsmap *records = calloc(count, sizeof(*records));
	struct dms_extent_set *unused;
	uint32_t i;

	CHECK(records);
	for (i = 0; i < count; i++)
		records[i] = (struct fsmap){
			.fmr_device = this_device(fd),
			.fmr_flags = FMR_OF_SPECIAL_OWNER,
			.fmr_owner = i % 2 ? FMR_OWN_FREE : FMR_OWN_UNKNOWN,
			.fmr_physical = i * PAGE,
			.fmr_length = PAGE,
		};
	kernel.records = records;
	kernel.nr_records = count;
	kernel.oflags = FMH_OF_DEV_T;
	kernel.calls = 0;
	CHECK_OK(dms_fs_map_unused(fd, GIB, &unused));
	CHECK(kernel.calls == 5);
	CHECK(dms_extent_set_count(unused) == count / 2);
	CHECK(dms_extent_set_bytes(unused) == count / 2 * PAGE);
	dms_extent_set_destroy(unused);
	free(records);
}

static void test_refusals(int fd)
{
	static const int unsupported[] = { ENOTTY, EOPNOTSUPP, EINVAL };
	struct dms_extent_set *unused;
	size_t i;

	kernel.countdown = 1;
	for (i = 0; i < 3; i++) {
		kernel.failure = unsupported[i];
		CHECK_ERROR(dms_fs_map_unused(fd, GIB, &unused), DMS_ERR_UNSUPPORTED);
	}
	kernel.failure = EIO;
	CHECK_ERROR(dms_fs_map_unused(fd, GIB, &unused), DMS_ERR_OS);
	kernel.failure = 0;
}

static struct item chunk_item(uint64_t logical, uint64_t length_bytes, uint64_t type,
			      uint16_t copies, uint64_t first, uint64_t second)
{
	struct item item = { .objectid = BTRFS_FIRST_CHUNK_TREE_OBJECTID,
			     .type = BTRFS_CHUNK_ITEM_KEY, .offset = logical };
	struct btrfs_stripe stripe = { .devid = htole64(DEVID), .offset = htole64(first) };
	struct btrfs_chunk chunk = { .length = htole64(length_bytes), .type = htole64(type),
				     .num_stripes = htole16(copies), .stripe = stripe };

	memcpy(item.data, &chunk, sizeof(chunk));
	stripe.offset = htole64(second);
	memcpy(item.data + sizeof(chunk), &stripe, sizeof(stripe));
	item.length = (uint32_t)(sizeof(chunk) + (copies - 1u) * sizeof(stripe));
	return item;
}

static struct item extent_item(uint64_t logical, uint32_t type, uint64_t offset)
{
	return (struct item){ .objectid = logical, .type = type, .offset = offset, .length = 24 };
}

#define MIB (1ull << 20)

static void set_btrfs(struct item *chunks, size_t nr_chunks, struct item *extents,
		      size_t nr_extents)
{
	kernel.chunks = chunks;
	kernel.nr_chunks = nr_chunks;
	kernel.extents = extents;
	kernel.nr_extents = nr_extents;
	kernel.incompat = BTRFS_FEATURE_INCOMPAT_SKINNY_METADATA;
	kernel.num_devices = 1;
	kernel.device_bytes = GIB - 64 * 1024;
}

static void test_btrfs(int fd)
{
	struct item chunks[] = {
		/* Device items come first in that tree. */
		{ .objectid = 1, .type = 216, .offset = DEVID, .length = 98 },
		chunk_item(100 * MIB, 8 * MIB, BTRFS_BLOCK_GROUP_METADATA | BTRFS_BLOCK_GROUP_DUP,
			   2, 300 * MIB, 200 * MIB),
		chunk_item(120 * MIB, 50 * MIB, BTRFS_BLOCK_GROUP_DATA, 1, 400 * MIB, 0),
	};
	struct item extents[] = {
		extent_item(100 * MIB, BTRFS_METADATA_ITEM_KEY, 0),
		extent_item(100 * MIB, BTRFS_BLOCK_GROUP_ITEM_KEY, 8 * MIB),
		extent_item(120 * MIB, BTRFS_EXTENT_ITEM_KEY, 50 * MIB),
	};
	const struct dms_extent expected[] = {
		{ MIB, 63 * MIB },
		{ 64 * MIB + 65536, 136 * MIB - 65536 },
		{ 200 * MIB + 16384, 100 * MIB - 16384 },
		{ 300 * MIB + 16384, 100 * MIB - 16384 },
		{ 450 * MIB, GIB - 65536 - 450 * MIB }, /* behind the file system is in use */
	};
	struct dms_extent_set *unused;
	int calls, i;

	set_btrfs(chunks, 3, extents, 3);
	kernel.calls = 0;
	CHECK_OK(dms_btrfs_map_unused(fd, GIB, &unused));
	check_extents(unused, expected, 5);
	dms_extent_set_destroy(unused);
	calls = kernel.calls;
	CHECK(calls >= 5);
	kernel.failure = EIO;
	for (i = 1; i <= calls; i++) {
		kernel.calls = 0;
		kernel.countdown = i;
		CHECK_ERROR(dms_btrfs_map_unused(fd, GIB, &unused), DMS_ERR_OS);
	}
	kernel.failure = 0;
}

static void check_btrfs_refused(int fd, const char *why)
{
	struct dms_extent_set *unused;

	CHECK_MESSAGE(dms_btrfs_map_unused(fd, GIB, &unused), DMS_ERR_UNSUPPORTED, why);
}

static void test_btrfs_refusals(int fd)
{
	const struct item good = chunk_item(100 * MIB, 8 * MIB, BTRFS_BLOCK_GROUP_DATA, 1,
					    300 * MIB, 0);
	const struct item extent = extent_item(101 * MIB, BTRFS_EXTENT_ITEM_KEY, MIB);
	struct item chunk = good;
	struct item used = extent;

	set_btrfs(&chunk, 1, &used, 1);
	kernel.num_devices = 2;
	check_btrfs_refused(fd, "several devices");
	set_btrfs(&chunk, 1, &used, 1);
	kernel.incompat |= BTRFS_FEATURE_INCOMPAT_ZONED;
	check_btrfs_refused(fd, "features");
	set_btrfs(&chunk, 1, &used, 1);
	kernel.device_bytes = GIB + 4096;
	check_btrfs_refused(fd, "larger than the volume");
	set_btrfs(&chunk, 1, &used, 1);
	chunk = chunk_item(100 * MIB, 8 * MIB, BTRFS_BLOCK_GROUP_RAID0, 1, 300 * MIB, 0);
	check_btrfs_refused(fd, "another profile");
	chunk = chunk_item(100 * MIB, 8 * MIB, BTRFS_BLOCK_GROUP_DUP, 1, 300 * MIB, 0);
	check_btrfs_refused(fd, "another profile");
	chunk = chunk_item(100 * MIB, 8 * MIB, BTRFS_BLOCK_GROUP_DATA, 2, 300 * MIB, 310 * MIB);
	check_btrfs_refused(fd, "another profile");
	chunk = chunk_item(100 * MIB, 8 * MIB, BTRFS_BLOCK_GROUP_DATA, 1, GIB - MIB, 0);
	check_btrfs_refused(fd, "past the device");
	chunk = good;
	chunk.length -= 1;
	check_btrfs_refused(fd, "cut off");
	chunk = good;
	((struct btrfs_chunk *)chunk.data)->stripe.devid = htole64(DEVID + 1);
	check_btrfs_refused(fd, "another device");
	chunk = good;
	used = extent_item(99 * MIB, BTRFS_EXTENT_ITEM_KEY, MIB);
	check_btrfs_refused(fd, "come and go");
	used = extent_item(107 * MIB, BTRFS_EXTENT_ITEM_KEY, 2 * MIB);
	check_btrfs_refused(fd, "come and go");
	used = extent_item(200 * MIB, BTRFS_EXTENT_ITEM_KEY, MIB);
	check_btrfs_refused(fd, "come and go");
}

static void test_a_chunk_made_meanwhile(int fd)
{
	struct item chunks[] = {
		chunk_item(100 * MIB, 8 * MIB, BTRFS_BLOCK_GROUP_DATA, 1, 300 * MIB, 0),
		chunk_item(120 * MIB, 8 * MIB, BTRFS_BLOCK_GROUP_DATA, 1, 400 * MIB, 0),
	};
	struct item extents[] = {
		extent_item(100 * MIB, BTRFS_EXTENT_ITEM_KEY, MIB),
		extent_item(120 * MIB, BTRFS_EXTENT_ITEM_KEY, MIB),
	};
	struct dms_extent_set *unused;

	set_btrfs(chunks, 2, extents, 2);
	kernel.looks_before_last = 3;
	CHECK_OK(dms_btrfs_map_unused(fd, GIB, &unused));
	CHECK(!kernel.looks_before_last);
	CHECK(dms_extent_set_bytes(unused) == GIB - 3 * MIB - 65536 - 65536);
	dms_extent_set_destroy(unused);
	kernel.looks_before_last = 1000;
	check_btrfs_refused(fd, "come and go");
	kernel.looks_before_last = 0;
}

/* More items than a buffer holds, and the largest keys there are. */
static void test_many_items(int fd)
{
	const size_t count = 40000;
	struct item *extents = calloc(count + 1, sizeof(*extents));
	struct item chunk = chunk_item(0, 800 * MIB, BTRFS_BLOCK_GROUP_DATA, 1, 100 * MIB, 0);
	struct dms_extent_set *unused;
	size_t i;

	CHECK(extents);
	for (i = 0; i < count; i++)
		extents[i] = extent_item(i * 2 * PAGE, BTRFS_EXTENT_ITEM_KEY, PAGE);
	extents[count] = extent_item(UINT64_MAX, UINT8_MAX, UINT64_MAX);
	set_btrfs(&chunk, 1, extents, count + 1);
	CHECK_OK(dms_btrfs_map_unused(fd, GIB, &unused));
	CHECK(dms_extent_set_bytes(unused) ==
	      GIB - MIB - 65536 - 65536 - count * PAGE);
	dms_extent_set_destroy(unused);
	free(extents);
}

int main(void)
{
	int fd = open("/tmp", O_RDONLY | O_DIRECTORY);

	CHECK(fd >= 0);
	test_records(fd);
	test_records_out_of_place(fd);
	test_many_records(fd);
	test_refusals(fd);
	test_btrfs(fd);
	test_btrfs_refusals(fd);
	test_a_chunk_made_meanwhile(fd);
	test_many_items(fd);
	close(fd);
	return 0;
}
