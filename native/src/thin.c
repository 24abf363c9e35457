// SPDX-License-Identifier: Apache-2.0
/* Superblock, and the devices that the details tree and the upper mapping tree name. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "btree.h"
#include "cleanup.h"
#include "le_cursor.h"
#include "thin.h"
#include "thin_superblock.h"

#define SECTOR_BYTES 512
#define DETAILS "device details tree"
#define DETAILS_BYTES 24
#define MAPPING "device mapping tree"
#define MAPPING_BYTES 8
#define MAX_DEV_ID ((1u << 24) - 1) /* of dm-thin.c */
#define FIRST_CAPACITY 64

DMS_DEFINE_CLEANUP(cleanup_metadata, struct dms_thin_metadata, dms_thin_metadata_close);

static struct dms_error *add_device(void *context, uint64_t blocknr, uint64_t key,
				    const uint8_t *value)
{
	struct dms_thin_metadata *metadata = context;

	if (key > MAX_DEV_ID)
		return dms_error_create_at(DMS_ERR_CORRUPT, blocknr * DMS_BLOCK_BYTES,
					   DETAILS " node %" PRIu64 ": device %" PRIu64, blocknr,
					   key);
	if (metadata->nr_devices == metadata->capacity) {
		size_t capacity = metadata->capacity ? metadata->capacity * 2 : FIRST_CAPACITY;
		struct dms_thin_device *devices =
			reallocarray(metadata->devices, capacity, sizeof(*devices));

		if (!devices)
			return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for %zu devices",
						capacity);
		metadata->devices = devices;
		metadata->capacity = capacity;
	}
	metadata->devices[metadata->nr_devices++] = (struct dms_thin_device){
		.dev_id = (uint32_t)key,
		.mapped_blocks = dms_load_le64(value),
		.transaction_id = dms_load_le64(value + 8),
		.creation_time = dms_load_le32(value + 16),
		.snapshotted_time = dms_load_le32(value + 20),
	};
	return NULL;
}

static int compare_devices(const void *left, const void *right)
{
	uint32_t a = ((const struct dms_thin_device *)left)->dev_id;
	uint32_t b = ((const struct dms_thin_device *)right)->dev_id;

	return (a > b) - (a < b);
}

static struct dms_thin_device *find_device(const struct dms_thin_metadata *metadata,
					   uint64_t dev_id)
{
	struct dms_thin_device wanted = { .dev_id = (uint32_t)dev_id };

	if (dev_id > MAX_DEV_ID || !metadata->nr_devices)
		return NULL;
	return bsearch(&wanted, metadata->devices, metadata->nr_devices, sizeof(wanted),
		       compare_devices);
}

static struct dms_error *add_root(void *context, uint64_t blocknr, uint64_t key,
				  const uint8_t *value)
{
	struct dms_thin_device *device = find_device(context, key);

	if (!device)
		return dms_error_create_at(DMS_ERR_CORRUPT, blocknr * DMS_BLOCK_BYTES,
					   MAPPING " node %" PRIu64 ": device %" PRIu64
						   " has no details",
					   blocknr, key);
	device->mapping_root = dms_load_le64(value);
	/* 0 stands for "none" below. The walk of the device checks all other values. */
	if (!device->mapping_root)
		return dms_error_create_at(DMS_ERR_OUT_OF_BOUNDS, blocknr * DMS_BLOCK_BYTES,
					   MAPPING " node %" PRIu64 ": device %" PRIu64
						   " has block 0 as its root",
					   blocknr, key);
	return NULL;
}

static struct dms_error *read_devices(struct dms_thin_metadata *metadata)
{
	const struct dms_thin_superblock *roots = &metadata->roots;

	DMS_TRY(dms_btree_walk(metadata->trees, DETAILS, roots->device_details_root, DETAILS_BYTES,
			       add_device, metadata));
	if (metadata->nr_devices)
		qsort(metadata->devices, metadata->nr_devices, sizeof(*metadata->devices),
		      compare_devices);
	DMS_TRY(dms_btree_walk(metadata->trees, MAPPING, roots->data_mapping_root, MAPPING_BYTES,
			       add_root, metadata));
	for (size_t i = 0; i < metadata->nr_devices; i++)
		if (!metadata->devices[i].mapping_root)
			return dms_error_create_at(
				DMS_ERR_CORRUPT, roots->data_mapping_root * DMS_BLOCK_BYTES,
				MAPPING ": device %u is missing", metadata->devices[i].dev_id);
	return NULL;
}

/* Where the roots are: in the live superblock, or in its clone. */
static struct dms_error *find_roots(struct dms_thin_metadata *metadata)
{
	uint64_t held_root = metadata->superblock.held_root;

	if (!metadata->from_snapshot) {
		metadata->roots = metadata->superblock;
		return NULL;
	}
	if (!held_root)
		return dms_error_create(DMS_ERR_NO_METADATA_SNAPSHOT,
					"no metadata snapshot is held");
	DMS_TRY(dms_metadata_walk_visit(metadata->trees, "thin superblock", held_root, 0));
	return dms_thin_superblock_read(&metadata->io, held_root, &metadata->roots);
}

/*
 * As long as the superblock is the same (or holds the same metadata snapshot),
 * no block that it leads to was used for something else.
 */
static struct dms_error *check_unchanged(const struct dms_thin_metadata *metadata)
{
	uint64_t held_root = metadata->superblock.held_root;
	struct dms_thin_superblock live, clone;

	DMS_TRY(dms_thin_superblock_read(&metadata->io, 0, &live));
	if (!metadata->from_snapshot) {
		if (live.csum == metadata->superblock.csum)
			return NULL;
		return dms_error_create_at(DMS_ERR_CHANGED, 0,
					   "thin metadata was written while it was read: it is in "
					   "use, and a metadata snapshot is needed");
	}
	if (live.held_root == held_root) {
		DMS_TRY(dms_thin_superblock_read(&metadata->io, held_root, &clone));
		if (clone.csum == metadata->roots.csum)
			return NULL;
	}
	return dms_error_create_at(DMS_ERR_CHANGED, 0,
				   "the metadata snapshot at block %" PRIu64
				   " was dropped while it was read", held_root);
}

struct dms_error *dms_thin_distrust(const struct dms_thin_metadata *metadata,
				    struct dms_error *error)
{
	struct dms_error *change;

	if (error && (error->code == DMS_ERR_OS || error->code == DMS_ERR_NO_MEMORY ||
		      error->code == DMS_ERR_NO_METADATA_SNAPSHOT))
		return error;
	change = check_unchanged(metadata);
	if (error && change && change->code != DMS_ERR_CHANGED) {
		dms_error_destroy(change);
		return error;
	}
	if (!change)
		return error;
	dms_error_destroy(error);
	return change;
}

static struct dms_error *read_trees(struct dms_thin_metadata *metadata)
{
	DMS_TRY(find_roots(metadata));
	return read_devices(metadata);
}

static struct dms_error *open_metadata(int fd, struct dms_thin_metadata *metadata)
{
	DMS_TRY(dms_block_io_init(&metadata->io, fd));
	if (!metadata->io.nr_blocks)
		return dms_error_create(DMS_ERR_BAD_MAGIC,
					"thin superblock: the medium has %" PRIu64 " bytes",
					metadata->io.size_bytes);
	DMS_TRY(dms_thin_superblock_read(&metadata->io, 0, &metadata->superblock));
	DMS_TRY(dms_thin_superblock_check_geometry(&metadata->superblock, &metadata->io));
	DMS_TRY(dms_metadata_walk_create(&metadata->io, &metadata->trees));
	return dms_thin_distrust(metadata, read_trees(metadata));
}

struct dms_error *dms_thin_metadata_open(int fd, bool from_snapshot,
					 struct dms_thin_metadata **metadata)
{
	DMS_CLEANUP(cleanup_metadata) struct dms_thin_metadata *new = calloc(1, sizeof(*new));
	struct dms_error *error;

	if (!new)
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for thin metadata");
	new->from_snapshot = from_snapshot;
	error = open_metadata(fd, new);
	if (!error)
		*metadata = dms_steal(new);
	return error;
}

void dms_thin_metadata_close(struct dms_thin_metadata *metadata)
{
	if (metadata->trees)
		dms_metadata_walk_destroy(metadata->trees);
	free(metadata->devices);
	free(metadata);
}

const struct dms_thin_superblock *
dms_thin_metadata_superblock(const struct dms_thin_metadata *metadata)
{
	return &metadata->superblock;
}

size_t dms_thin_metadata_nr_devices(const struct dms_thin_metadata *metadata)
{
	return metadata->nr_devices;
}

const struct dms_thin_device *dms_thin_metadata_devices(const struct dms_thin_metadata *metadata)
{
	return metadata->devices;
}

uint64_t dms_thin_block_bytes(const struct dms_thin_metadata *metadata)
{
	return (uint64_t)metadata->superblock.data_block_size * SECTOR_BYTES;
}

struct dms_error *dms_thin_find_device(const struct dms_thin_metadata *metadata, uint32_t dev_id,
				       const struct dms_thin_device **device)
{
	*device = find_device(metadata, dev_id);
	if (!*device)
		return dms_error_create(DMS_ERR_INVALID_ARGUMENT,
					"the pool has no thin device %u", dev_id);
	return NULL;
}
