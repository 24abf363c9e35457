// SPDX-License-Identifier: Apache-2.0
/*
 * The two sectors of a label: read, written one after the other, wiped. What
 * is in a sector is label_codec.c's.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include <dmsnap/label.h>

#include "block_io.h"
#include "cleanup.h"
#include "label_codec.h"

#define NR_SLOTS 2

/* A sector's label, or why there is none. */
struct slot {
	struct dms_label label;
	struct dms_error *error;
	uint8_t sector[DMS_LABEL_SECTOR_BYTES];
};

/* On the heap: two labels are more than a function should have on its stack. */
struct slots {
	struct slot slot[NR_SLOTS];
};

static void slots_destroy(struct slots *slots)
{
	for (unsigned int i = 0; i < NR_SLOTS; i++)
		dms_error_destroy(slots->slot[i].error);
	free(slots);
}

DMS_DEFINE_CLEANUP(cleanup_slots, struct slots, slots_destroy);

uint64_t dms_label_offset(uint64_t device_bytes)
{
	uint64_t end = device_bytes - device_bytes % DMS_LABEL_SECTOR_BYTES;

	return end < DMS_LABEL_AREA_BYTES ? 0 : end - DMS_LABEL_AREA_BYTES;
}

/* The error moved from where its sector begins on the medium. */
static struct dms_error *at_sector(struct dms_error *error, uint64_t sector_bytes)
{
	if (error->code != DMS_ERR_NO_MEMORY && error->code != DMS_ERR_OS)
		error->offset_bytes = error->offset_bytes == DMS_NO_OFFSET ?
					      sector_bytes :
					      error->offset_bytes + sector_bytes;
	return error;
}

static struct dms_error *read_slot(const struct dms_block_io *io, uint64_t device_bytes,
				   uint64_t offset_bytes, struct slot *slot)
{
	_cleanup_free_ uint8_t *buffer = NULL;
	const uint8_t *sector;
	struct dms_error *error;

	error = dms_buffer_create(DMS_LABEL_SECTOR_BYTES + 2 * DMS_BLOCK_BYTES, &buffer);
	if (error)
		return error;
	error = dms_block_io_read_bytes(io, "label", offset_bytes, DMS_LABEL_SECTOR_BYTES, buffer,
					&sector);
	if (error)
		return error;
	memcpy(slot->sector, sector, sizeof(slot->sector));
	error = dms_label_decode(sector, device_bytes, &slot->label);
	return error ? at_sector(error, offset_bytes) : NULL;
}

static struct dms_error *read_slots(int fd, uint64_t device_bytes, struct slots **slots)
{
	struct slots *new;
	struct dms_block_io io;
	struct dms_error *error = dms_block_io_init(&io, fd);

	if (error)
		return error;
	new = calloc(1, sizeof(*new));
	if (!new)
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for a label");
	for (unsigned int i = 0; i < NR_SLOTS; i++)
		new->slot[i].error =
			read_slot(&io, device_bytes,
				  dms_label_offset(device_bytes) + i * DMS_LABEL_SECTOR_BYTES,
				  &new->slot[i]);
	*slots = new;
	return NULL;
}

/* The slot with the truth; NR_SLOTS when neither passes the checks. */
static unsigned int newest(const struct slots *slots)
{
	const struct slot *slot = slots->slot;

	if (slot[0].error && slot[1].error)
		return NR_SLOTS;
	if (slot[0].error || slot[1].error)
		return slot[0].error ? 1 : 0;
	return slot[1].label.generation > slot[0].label.generation ? 1 : 0;
}

/* What the sector beside the newest one holds; only labels of version 2 were written to both. */
static enum dms_label_twin twin_of(const struct slots *slots, unsigned int slot)
{
	const struct slot *other = &slots->slot[1 - slot];
	const struct dms_label *label = &slots->slot[slot].label;

	if (!other->error)
		return memcmp(other->sector, slots->slot[slot].sector, sizeof(other->sector)) ?
			       DMS_LABEL_TWIN_EARLIER :
			       DMS_LABEL_TWIN_SAME;
	if (dms_label_version(label) > 1)
		return DMS_LABEL_TWIN_DAMAGED;
	/* The first label of all was written to one sector. */
	return label->generation == 1 ? DMS_LABEL_TWIN_EARLIER : DMS_LABEL_TWIN_DOUBTFUL;
}

/* Of two reasons for having no label, the one that says more: "no label" says least. */
static struct dms_error *reason(struct slots *slots)
{
	bool second = slots->slot[0].error->code == DMS_ERR_BAD_MAGIC ||
		      slots->slot[1].error->code == DMS_ERR_OS;

	return dms_steal(slots->slot[second].error);
}

struct dms_error *dms_label_read(int fd, uint64_t device_bytes, struct dms_label *label)
{
	DMS_CLEANUP(cleanup_slots) struct slots *slots = NULL;
	struct dms_error *error;
	unsigned int slot;

	if (device_bytes < DMS_LABEL_AREA_BYTES)
		return dms_error_create(DMS_ERR_BAD_MAGIC,
					"label: %" PRIu64 " bytes have no room for one",
					device_bytes);
	error = read_slots(fd, device_bytes, &slots);
	if (error)
		return error;
	slot = newest(slots);
	if (slot == NR_SLOTS)
		return reason(slots);
	*label = slots->slot[slot].label;
	label->twin = twin_of(slots, slot);
	return NULL;
}

static struct dms_error *write_sector(int fd, const uint8_t *sector, uint64_t offset_bytes)
{
	struct dms_error *error =
		dms_write_at(fd, "label", sector, DMS_LABEL_SECTOR_BYTES, offset_bytes);

	if (!error && fdatasync(fd))
		error = dms_error_create_os_at(errno, offset_bytes, "label: flush");
	return error;
}

/* Encode, and hold the result against the checks that every reader makes. */
static struct dms_error *encode_checked(const struct dms_label *label, uint64_t device_bytes,
					uint8_t *sector)
{
	_cleanup_free_ struct dms_label *decoded = malloc(sizeof(*decoded));
	struct dms_error *error;

	if (!decoded)
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for a label");
	error = dms_label_encode(label, sector);
	if (!error)
		error = dms_label_decode(sector, device_bytes, decoded);
	if (error && error->code != DMS_ERR_NO_MEMORY) {
		error->code = DMS_ERR_INVALID_ARGUMENT; /* the caller's label, not the medium's */
		error->offset_bytes = DMS_NO_OFFSET;
	}
	return error;
}

/* To the sector that the newest label is not in; once that is safe, over the newest, too. */
static struct dms_error *write_both(int fd, uint64_t device_bytes, const uint8_t *sector,
				    unsigned int first)
{
	uint64_t area = dms_label_offset(device_bytes);

	DMS_TRY(write_sector(fd, sector, area + first * DMS_LABEL_SECTOR_BYTES));
	return write_sector(fd, sector, area + (1 - first) * DMS_LABEL_SECTOR_BYTES);
}

struct dms_error *dms_label_write(int fd, uint64_t device_bytes, struct dms_label *label)
{
	DMS_CLEANUP(cleanup_slots) struct slots *slots = NULL;
	_cleanup_free_ uint8_t *sector = NULL;
	struct dms_error *error;
	uint64_t generation = 0, generation_before = label->generation;
	unsigned int slot;

	if (device_bytes < DMS_LABEL_AREA_BYTES)
		return dms_error_create(DMS_ERR_INVALID_ARGUMENT,
					"label: %" PRIu64 " bytes have no room for one",
					device_bytes);
	error = read_slots(fd, device_bytes, &slots);
	if (error)
		return error;
	slot = newest(slots);
	if (slot < NR_SLOTS)
		generation = slots->slot[slot].label.generation;
	if (generation == UINT64_MAX)
		return dms_error_create(DMS_ERR_UNSUPPORTED, "label: the generation is used up");
	error = dms_buffer_create(DMS_LABEL_SECTOR_BYTES, &sector);
	if (error)
		return error;
	label->generation = generation + 1;
	error = encode_checked(label, device_bytes, sector);
	if (!error)
		error = write_both(fd, device_bytes, sector, slot == 0);
	if (error)
		label->generation = generation_before;
	else
		label->twin = DMS_LABEL_TWIN_SAME;
	return error;
}

/*
 * The truth goes last: killed in between, an older label must not come to
 * the fore and call a replica consistent that was written to since.
 */
struct dms_error *dms_label_wipe(int fd, uint64_t device_bytes)
{
	DMS_CLEANUP(cleanup_slots) struct slots *slots = NULL;
	_cleanup_free_ uint8_t *sector = NULL;
	struct dms_error *error;
	unsigned int slot;

	if (device_bytes < DMS_LABEL_AREA_BYTES)
		return dms_error_create(DMS_ERR_INVALID_ARGUMENT,
					"label: %" PRIu64 " bytes have no room for one",
					device_bytes);
	error = read_slots(fd, device_bytes, &slots);
	if (!error)
		error = dms_buffer_create(DMS_LABEL_SECTOR_BYTES, &sector);
	if (error)
		return error;
	memset(sector, 0, DMS_LABEL_SECTOR_BYTES);
	slot = newest(slots) == 0 ? 1 : 0;
	for (unsigned int i = 0; !error && i < NR_SLOTS; i++, slot = 1 - slot)
		error = write_sector(fd, sector,
				     dms_label_offset(device_bytes) +
					     slot * DMS_LABEL_SECTOR_BYTES);
	return error;
}
