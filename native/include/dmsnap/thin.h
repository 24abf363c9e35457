/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dm-thin pool metadata (drivers/md/dm-thin-metadata.c): what each thin device
 * maps, and in what two of them differ. Field names are the kernel's.
 */
#ifndef DMSNAP_THIN_H
#define DMSNAP_THIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <dmsnap/error.h>
#include <dmsnap/extent_set.h>

/* cffi: begin */
enum {
	DMS_THIN_NEEDS_CHECK = 1, /* in flags: the kernel wants thin_check before it writes again */
};

struct dms_thin_superblock {
	uint32_t csum;
	uint32_t flags;
	uint64_t blocknr;
	uint32_t version;
	uint32_t time; /* the pool's clock: it ticks with every snapshot */
	uint64_t trans_id;
	uint64_t held_root; /* metadata block of the metadata snapshot; 0: none held */
	uint64_t data_nr_blocks; /* of the data device; 0 in a metadata snapshot */
	uint64_t data_nr_allocated; /* 0 in a metadata snapshot */
	uint64_t data_mapping_root; /* metadata block */
	uint64_t device_details_root; /* metadata block */
	uint32_t data_block_size; /* sectors */
	uint32_t metadata_block_size; /* sectors, always 8 */
	uint64_t metadata_nr_blocks;
	uint32_t incompat_flags;
};

struct dms_thin_device {
	uint32_t dev_id;
	uint32_t creation_time;
	uint32_t snapshotted_time;
	uint64_t mapped_blocks;
	uint64_t transaction_id; /* of the pool when the device was made */
	uint64_t mapping_root; /* metadata block */
};

/* Blocks of a thin device that lie one behind the other on the data device, too. */
struct dms_thin_mapping {
	uint64_t thin_block;
	uint64_t data_block;
	uint64_t nr_blocks;
	uint32_t time; /* of the pool when they were mapped */
};

struct dms_thin_metadata;

/*
 * fd: a thin pool's metadata device or an image of one, opened for reading and
 * kept open by the caller; O_DIRECT is used as the descriptor has it (it must
 * have it on a device in use). Validates the superblock in full and reads the
 * list of devices. With from_snapshot everything is as of the metadata
 * snapshot (DMS_ERR_NO_METADATA_SNAPSHOT when none is held), but for the
 * geometry. A live pool's metadata can only be read so: whatever else is read
 * while it changes is DMS_ERR_CHANGED.
 */
struct dms_error *dms_thin_metadata_open(int fd, bool from_snapshot,
					 struct dms_thin_metadata **metadata);
void dms_thin_metadata_close(struct dms_thin_metadata *metadata);
/* The live one. */
const struct dms_thin_superblock *
dms_thin_metadata_superblock(const struct dms_thin_metadata *metadata);
size_t dms_thin_metadata_nr_devices(const struct dms_thin_metadata *metadata);
/* In ascending order of dev_id. */
const struct dms_thin_device *dms_thin_metadata_devices(const struct dms_thin_metadata *metadata);

struct dms_thin_mappings;

/* Everything that device dev_id maps. DMS_ERR_INVALID_ARGUMENT when there is no such device. */
struct dms_error *dms_thin_mappings_read(const struct dms_thin_metadata *metadata, uint32_t dev_id,
					 struct dms_thin_mappings **mappings);
void dms_thin_mappings_destroy(struct dms_thin_mappings *mappings);
size_t dms_thin_mappings_count(const struct dms_thin_mappings *mappings);
/* In ascending order of thin_block, each as long as it can be. */
const struct dms_thin_mapping *dms_thin_mappings_list(const struct dms_thin_mappings *mappings);
/* The bytes of the thin device that are mapped; clamp to its size. */
struct dms_error *dms_thin_mappings_extents(const struct dms_thin_mappings *mappings,
					    struct dms_extent_set **set);

struct dms_thin_difference {
	struct dms_extent_set *added; /* mapped by to alone */
	struct dms_extent_set *removed; /* mapped by from alone */
	struct dms_extent_set *changed; /* mapped by both, to different data blocks */
};

/*
 * What differs between two thin devices of the pool, in bytes of the thin
 * device. Subtrees that they share are not read. Everywhere else both have the
 * same content: the kernel writes no data block that two devices map. The
 * three sets are the caller's, to be destroyed one by one.
 */
struct dms_error *dms_thin_difference(const struct dms_thin_metadata *metadata, uint32_t from,
				      uint32_t to, struct dms_thin_difference *difference);
/* cffi: end */

#endif
