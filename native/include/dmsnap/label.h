/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The label of a recovery volume: two 4 KiB sectors at the end of the device,
 * written one after the other, each with a checksum and a generation counter.
 * The one with the higher generation that passes every check is the truth about
 * the replica. Every byte of it is described in docs/FORMATS.md.
 */
#ifndef DMSNAP_LABEL_H
#define DMSNAP_LABEL_H

#include <stdint.h>

#include <dmsnap/error.h>

/* cffi: begin */
#define DMS_LABEL_SECTOR_BYTES 4096
#define DMS_LABEL_AREA_BYTES 8192
#define DMS_LABEL_MAX_HISTORY 64

enum dms_label_state {
	DMS_LABEL_COPYING = 1, /* first full copy under way: the replica holds no point */
	DMS_LABEL_CONSISTENT = 2, /* the replica is the point, byte for byte */
	DMS_LABEL_APPLYING = 3, /* between two points: finish, or roll the undo store back */
	DMS_LABEL_MERGING = 4, /* a commit merges undo stores or an overlay into it */
	DMS_LABEL_PRIMARY = 5, /* promoted: it is the volume now, and no replica */
};

/*
 * What the other sector holds. A label that was written whole is in both: so whichever of them is
 * damaged, the other says the same, or is what a write that was cut off has left in force. Before
 * version 2 the sectors were written in turn, and a damaged one may have been the later one.
 */
enum dms_label_twin {
	DMS_LABEL_TWIN_SAME = 0,
	DMS_LABEL_TWIN_EARLIER = 1, /* an earlier label, or none yet */
	DMS_LABEL_TWIN_DAMAGED = 2, /* none that passes the checks, and no later one is lost */
	DMS_LABEL_TWIN_DOUBTFUL = 3, /* none that passes the checks: it may have been a later one */
};

/* One step back: the undo store that turns the next newer content into this point. */
struct dms_label_history {
	uint8_t point_uuid[16];
	uint64_t point_time_ns; /* since the epoch */
	uint64_t store_offset_bytes; /* on the recovery volume */
	uint64_t store_length_bytes;
	uint32_t chunk_size; /* sectors */
	uint32_t flags; /* DMS_LABEL_KEEP */
};

#define DMS_LABEL_KEEP 1

struct dms_label {
	uint64_t generation;
	uint64_t size_bytes; /* the volume's, and so the replica's */
	uint8_t volume_uuid[16];
	uint8_t recovery_uuid[16];
	uint32_t state;
	uint32_t flags; /* of the replica's point: DMS_LABEL_KEEP */
	uint8_t point_uuid[16]; /* what the replica holds, or held before it was applied to */
	uint64_t point_time_ns;
	uint8_t next_point_uuid[16]; /* copying, applying: what is being written */
	uint64_t next_point_time_ns;
	uint64_t history_offset_bytes; /* the region for undo stores */
	uint64_t history_length_bytes;
	char name[65]; /* of the volume */
	char fs_type[17];
	char fs_uuid[41];
	char host[65]; /* that wrote this label */
	/* From here to mount_options version 2: all of it zero makes a label of version 1. */
	uint8_t host_uuid[16]; /* of the host whose recovery volume it is; zero: nobody's */
	uint64_t lease_time_ns; /* when that host last wrote a label here */
	uint32_t block_size; /* of dm-era, sectors; 0: not known */
	uint32_t chunk_size; /* of live points, sectors; 0: not known */
	char device[193]; /* the volume's own, or after a commit its former one */
	char store[129];
	char mount_point[129];
	char mount_options[129];
	uint32_t twin; /* enum dms_label_twin; of what was read, and on no disk */
	uint32_t nr_history;
	/*
	 * Newest first. While applying, entry 0 is the store that undoes what is
	 * being written, and names the point that the replica held.
	 */
	struct dms_label_history history[64];
};

/* Where the label area begins on a device of device_bytes: its last two whole 4 KiB sectors. */
uint64_t dms_label_offset(uint64_t device_bytes);
/*
 * DMS_ERR_BAD_MAGIC: neither sector is a label. DMS_ERR_CHECKSUM or
 * DMS_ERR_CORRUPT: at least one is, and none passes the checks.
 */
struct dms_error *dms_label_read(int fd, uint64_t device_bytes, struct dms_label *label);
/*
 * Write with the newest valid label's generation + 1: to the sector that it is not in, flush, then
 * to the other one, flush. The first flush makes it the truth, the second safe from a bad sector.
 */
struct dms_error *dms_label_write(int fd, uint64_t device_bytes, struct dms_label *label);
/* Overwrite both sectors with zeroes, and flush. */
struct dms_error *dms_label_wipe(int fd, uint64_t device_bytes);

/* The codec alone; sector is DMS_LABEL_SECTOR_BYTES. */
struct dms_error *dms_label_decode(const void *sector, uint64_t device_bytes,
				   struct dms_label *label);
struct dms_error *dms_label_encode(const struct dms_label *label, void *sector);
/* cffi: end */

#endif
