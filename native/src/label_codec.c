// SPDX-License-Identifier: Apache-2.0
/*
 * The bytes of a label's sector; docs/FORMATS.md has the table. A sector is
 * decoded only if every byte of it is one that an encoder would have written.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#include <dmsnap/checksum.h>
#include <dmsnap/label.h>

#include "cleanup.h"
#include "label_codec.h"
#include "le_cursor.h"
#include "text.h"

#define MAGIC "DMSNAPLB"
#define MAGIC_BYTES 8
#define CRC_OFFSET 8
#define CHECKSUM_XOR 0x4d534e4c
#define VERSION_1 1
#define VERSION_2 2
#define OWNER_BYTES 608 /* what version 2 has more, from 328 */
#define RESERVED_BYTES 88 /* from 936 to the history at 1024 */
#define HISTORY_ENTRY_BYTES 48
#define MAX_CHUNK_SECTORS (1u << 21)

static uint32_t checksum(const uint8_t *sector)
{
	static const uint8_t zero[4];
	uint32_t crc = ~(uint32_t)0;

	crc = dms_crc32c(crc, sector, CRC_OFFSET);
	crc = dms_crc32c(crc, zero, sizeof(zero));
	crc = dms_crc32c(crc, sector + CRC_OFFSET + sizeof(zero),
			 DMS_LABEL_SECTOR_BYTES - CRC_OFFSET - sizeof(zero));
	return crc ^ CHECKSUM_XOR;
}

static struct dms_error *decode_text(struct dms_le_cursor *cursor, const char *field, char *text,
				     size_t size)
{
	uint64_t offset_bytes = dms_le_cursor_tell(cursor);

	DMS_TRY(dms_le_cursor_bytes(cursor, field, text, size));
	text[size] = '\0';
	for (size_t i = strlen(text); i < size; i++)
		if (text[i])
			return dms_error_create_at(DMS_ERR_CORRUPT, offset_bytes,
						   "label: %s goes on behind its end", field);
	if (!dms_text_is_printable(text))
		return dms_error_create_at(DMS_ERR_CORRUPT, offset_bytes,
					   "label: %s is not printable text", field);
	return NULL;
}

static struct dms_error *decode_zeroes(struct dms_le_cursor *cursor, const char *field, size_t size)
{
	uint64_t offset_bytes = dms_le_cursor_tell(cursor);
	const uint8_t *bytes;

	DMS_TRY(dms_le_cursor_view(cursor, field, size, &bytes));
	for (size_t i = 0; i < size; i++)
		if (bytes[i])
			return dms_error_create_at(DMS_ERR_CORRUPT, offset_bytes + i,
						   "label: %s is not zero", field);
	return NULL;
}

static struct dms_error *decode_head(struct dms_le_cursor *cursor, struct dms_label *label)
{
	DMS_TRY(dms_le_cursor_u64(cursor, "generation", &label->generation));
	DMS_TRY(dms_le_cursor_u64(cursor, "size", &label->size_bytes));
	DMS_TRY(dms_le_cursor_bytes(cursor, "volume UUID", label->volume_uuid, 16));
	DMS_TRY(dms_le_cursor_bytes(cursor, "recovery UUID", label->recovery_uuid, 16));
	DMS_TRY(dms_le_cursor_u32(cursor, "state", &label->state));
	DMS_TRY(dms_le_cursor_u32(cursor, "flags", &label->flags));
	DMS_TRY(dms_le_cursor_bytes(cursor, "point UUID", label->point_uuid, 16));
	DMS_TRY(dms_le_cursor_u64(cursor, "point time", &label->point_time_ns));
	DMS_TRY(dms_le_cursor_bytes(cursor, "next point UUID", label->next_point_uuid, 16));
	DMS_TRY(dms_le_cursor_u64(cursor, "next point time", &label->next_point_time_ns));
	DMS_TRY(dms_le_cursor_u64(cursor, "history offset", &label->history_offset_bytes));
	DMS_TRY(dms_le_cursor_u64(cursor, "history length", &label->history_length_bytes));
	DMS_TRY(dms_le_cursor_u32(cursor, "nr_history", &label->nr_history));
	DMS_TRY(decode_zeroes(cursor, "the word behind nr_history", 4));
	DMS_TRY(decode_text(cursor, "name", label->name, 64));
	DMS_TRY(decode_text(cursor, "fs_type", label->fs_type, 16));
	DMS_TRY(decode_text(cursor, "fs_uuid", label->fs_uuid, 40));
	return decode_text(cursor, "host", label->host, 64);
}

static bool is_zero(const void *bytes, size_t size)
{
	const uint8_t *at = bytes;

	for (size_t i = 0; i < size; i++)
		if (at[i])
			return false;
	return true;
}

/* What takes version 2 to say; a label without any of it is one of version 1. */
static bool has_owner(const struct dms_label *label)
{
	return !is_zero(label->host_uuid, 16) || label->lease_time_ns || label->block_size ||
	       label->chunk_size || label->device[0] || label->store[0] || label->mount_point[0] ||
	       label->mount_options[0];
}

uint32_t dms_label_version(const struct dms_label *label)
{
	return has_owner(label) ? VERSION_2 : VERSION_1;
}

static struct dms_error *decode_owner(struct dms_le_cursor *cursor, struct dms_label *label)
{
	DMS_TRY(dms_le_cursor_bytes(cursor, "host UUID", label->host_uuid, 16));
	DMS_TRY(dms_le_cursor_u64(cursor, "lease time", &label->lease_time_ns));
	DMS_TRY(dms_le_cursor_u32(cursor, "block size", &label->block_size));
	DMS_TRY(dms_le_cursor_u32(cursor, "chunk size", &label->chunk_size));
	DMS_TRY(decode_text(cursor, "device", label->device, 192));
	DMS_TRY(decode_text(cursor, "store", label->store, 128));
	DMS_TRY(decode_text(cursor, "mount point", label->mount_point, 128));
	DMS_TRY(decode_text(cursor, "mount options", label->mount_options, 128));
	if (!has_owner(label))
		return dms_error_create(DMS_ERR_CORRUPT, "label: version 2 that says no more than 1");
	return NULL;
}

static struct dms_error *decode_version(struct dms_le_cursor *cursor, uint32_t version,
					struct dms_label *label)
{
	if (version == VERSION_2)
		DMS_TRY(decode_owner(cursor, label));
	else
		DMS_TRY(decode_zeroes(cursor, "the part of version 2", OWNER_BYTES));
	return decode_zeroes(cursor, "the reserved part", RESERVED_BYTES);
}

static struct dms_error *decode_history(struct dms_le_cursor *cursor, struct dms_label *label)
{
	if (label->nr_history > DMS_LABEL_MAX_HISTORY)
		return dms_error_create(DMS_ERR_CORRUPT, "label: %u history entries, %d fit",
					label->nr_history, DMS_LABEL_MAX_HISTORY);
	for (uint32_t i = 0; i < label->nr_history; i++) {
		struct dms_label_history *entry = &label->history[i];

		DMS_TRY(dms_le_cursor_bytes(cursor, "history point UUID", entry->point_uuid, 16));
		DMS_TRY(dms_le_cursor_u64(cursor, "history point time", &entry->point_time_ns));
		DMS_TRY(dms_le_cursor_u64(cursor, "store offset", &entry->store_offset_bytes));
		DMS_TRY(dms_le_cursor_u64(cursor, "store length", &entry->store_length_bytes));
		DMS_TRY(dms_le_cursor_u32(cursor, "chunk size", &entry->chunk_size));
		DMS_TRY(dms_le_cursor_u32(cursor, "history flags", &entry->flags));
	}
	return decode_zeroes(cursor, "the unused history",
			     (DMS_LABEL_MAX_HISTORY - label->nr_history) * HISTORY_ENTRY_BYTES);
}

/* [offset, offset + length) lies in [start, end). */
static bool lies_within(uint64_t offset, uint64_t length, uint64_t start, uint64_t end)
{
	return offset >= start && offset <= end && length <= end - offset;
}

static bool is_aligned(uint64_t offset, uint64_t length)
{
	return !((offset | length) % DMS_LABEL_SECTOR_BYTES);
}

static struct dms_error *check_regions(const struct dms_label *label, uint64_t device_bytes)
{
	uint64_t end = dms_label_offset(device_bytes);

	if (!label->size_bytes || label->size_bytes > end)
		return dms_error_create(DMS_ERR_OUT_OF_BOUNDS,
					"label: a replica of %" PRIu64 " bytes, room for %" PRIu64,
					label->size_bytes, end);
	if (!label->history_length_bytes)
		return NULL;
	if (!is_aligned(label->history_offset_bytes, label->history_length_bytes) ||
	    !lies_within(label->history_offset_bytes, label->history_length_bytes,
			 label->size_bytes, end))
		return dms_error_create(DMS_ERR_OUT_OF_BOUNDS,
					"label: the history (%" PRIu64 " bytes at %" PRIu64
					") does not lie between replica and label",
					label->history_length_bytes, label->history_offset_bytes);
	return NULL;
}

static bool is_power_of_two(uint32_t value)
{
	return value && !(value & (value - 1));
}

static struct dms_error *check_sizes(const struct dms_label *label)
{
	if ((label->block_size && !is_power_of_two(label->block_size)) ||
	    (label->chunk_size && !is_power_of_two(label->chunk_size)))
		return dms_error_create(DMS_ERR_CORRUPT,
					"label: blocks of %u sectors, chunks of %u sectors",
					label->block_size, label->chunk_size);
	return NULL;
}

static struct dms_error *check_store(const struct dms_label *label, uint32_t i)
{
	const struct dms_label_history *entry = &label->history[i];

	if (!is_power_of_two(entry->chunk_size) || entry->chunk_size > MAX_CHUNK_SECTORS)
		return dms_error_create(DMS_ERR_CORRUPT,
					"label: history entry %u: chunk size of %u sectors", i,
					entry->chunk_size);
	if (entry->flags & ~(uint32_t)DMS_LABEL_KEEP)
		return dms_error_create(DMS_ERR_UNSUPPORTED,
					"label: history entry %u: flags 0x%x", i, entry->flags);
	if (!entry->store_length_bytes ||
	    !is_aligned(entry->store_offset_bytes, entry->store_length_bytes) ||
	    !lies_within(entry->store_offset_bytes, entry->store_length_bytes,
			 label->history_offset_bytes,
			 label->history_offset_bytes + label->history_length_bytes))
		return dms_error_create(DMS_ERR_OUT_OF_BOUNDS,
					"label: history entry %u: a store of %" PRIu64
					" bytes at %" PRIu64,
					i, entry->store_length_bytes, entry->store_offset_bytes);
	for (uint32_t j = 0; j < i; j++) {
		const struct dms_label_history *other = &label->history[j];

		if (entry->store_offset_bytes <
			    other->store_offset_bytes + other->store_length_bytes &&
		    other->store_offset_bytes <
			    entry->store_offset_bytes + entry->store_length_bytes)
			return dms_error_create(DMS_ERR_CORRUPT,
						"label: the stores of history entries %u and %u "
						"overlap",
						j, i);
	}
	return NULL;
}

static struct dms_error *check(const struct dms_label *label, uint64_t device_bytes)
{
	if (!label->generation)
		return dms_error_create(DMS_ERR_CORRUPT, "label: generation 0");
	if (label->state < DMS_LABEL_COPYING || label->state > DMS_LABEL_PRIMARY)
		return dms_error_create(DMS_ERR_CORRUPT, "label: state %u", label->state);
	if (label->flags & ~(uint32_t)DMS_LABEL_KEEP)
		return dms_error_create(DMS_ERR_UNSUPPORTED, "label: flags 0x%x", label->flags);
	DMS_TRY(check_sizes(label));
	DMS_TRY(check_regions(label, device_bytes));
	for (uint32_t i = 0; i < label->nr_history; i++)
		DMS_TRY(check_store(label, i));
	return NULL;
}

static struct dms_error *decode_preamble(struct dms_le_cursor *cursor, const uint8_t *sector,
					 uint32_t *version)
{
	uint32_t stored, computed = checksum(sector);
	const uint8_t *magic;

	DMS_TRY(dms_le_cursor_view(cursor, "magic", MAGIC_BYTES, &magic));
	if (memcmp(magic, MAGIC, MAGIC_BYTES))
		return dms_error_create_at(DMS_ERR_BAD_MAGIC, 0, "label: no magic number");
	DMS_TRY(dms_le_cursor_u32(cursor, "checksum", &stored));
	if (stored != computed)
		return dms_error_create_at(DMS_ERR_CHECKSUM, 0,
					   "label: checksum 0x%08x, computed 0x%08x", stored,
					   computed);
	DMS_TRY(dms_le_cursor_u32(cursor, "version", version));
	if (*version != VERSION_1 && *version != VERSION_2)
		return dms_error_create_at(DMS_ERR_UNSUPPORTED, 0,
					   "label: version %u, known are 1 and 2", *version);
	return NULL;
}

struct dms_error *dms_label_decode(const void *sector, uint64_t device_bytes,
				   struct dms_label *label)
{
	struct dms_le_cursor cursor = dms_le_cursor("label", sector, DMS_LABEL_SECTOR_BYTES, 0);
	struct dms_label decoded = { 0 };
	uint32_t version;

	DMS_TRY(decode_preamble(&cursor, sector, &version));
	DMS_TRY(decode_head(&cursor, &decoded));
	DMS_TRY(decode_version(&cursor, version, &decoded));
	DMS_TRY(decode_history(&cursor, &decoded));
	DMS_TRY(check(&decoded, device_bytes));
	*label = decoded;
	return NULL;
}

/* The encoder's cursor: its layout is fixed, so it cannot leave the sector. */
struct pen {
	uint8_t *at;
};

static void put_u32(struct pen *pen, uint32_t value)
{
	dms_store_le32(pen->at, value);
	pen->at += sizeof(value);
}

static void put_u64(struct pen *pen, uint64_t value)
{
	dms_store_le64(pen->at, value);
	pen->at += sizeof(value);
}

static void put_bytes(struct pen *pen, const void *bytes, size_t size)
{
	memcpy(pen->at, bytes, size);
	pen->at += size;
}

/* size bytes of which the string is the beginning; its terminator needs no room. */
static struct dms_error *put_text(struct pen *pen, const char *field, const char *text, size_t size)
{
	size_t length = strnlen(text, size + 1);

	if (length > size)
		return dms_error_create(DMS_ERR_INVALID_ARGUMENT, "label: %s has no end", field);
	memcpy(pen->at, text, length);
	pen->at += size;
	return NULL;
}

static void put_history(struct pen *pen, const struct dms_label_history *entry)
{
	put_bytes(pen, entry->point_uuid, 16);
	put_u64(pen, entry->point_time_ns);
	put_u64(pen, entry->store_offset_bytes);
	put_u64(pen, entry->store_length_bytes);
	put_u32(pen, entry->chunk_size);
	put_u32(pen, entry->flags);
}

static void put_head(struct pen *pen, const struct dms_label *label)
{
	put_bytes(pen, MAGIC, MAGIC_BYTES);
	put_u32(pen, 0);
	put_u32(pen, dms_label_version(label));
	put_u64(pen, label->generation);
	put_u64(pen, label->size_bytes);
	put_bytes(pen, label->volume_uuid, 16);
	put_bytes(pen, label->recovery_uuid, 16);
	put_u32(pen, label->state);
	put_u32(pen, label->flags);
	put_bytes(pen, label->point_uuid, 16);
	put_u64(pen, label->point_time_ns);
	put_bytes(pen, label->next_point_uuid, 16);
	put_u64(pen, label->next_point_time_ns);
	put_u64(pen, label->history_offset_bytes);
	put_u64(pen, label->history_length_bytes);
	put_u32(pen, label->nr_history);
	put_u32(pen, 0);
}

static struct dms_error *put_owner(struct pen *pen, const struct dms_label *label)
{
	put_bytes(pen, label->host_uuid, 16);
	put_u64(pen, label->lease_time_ns);
	put_u32(pen, label->block_size);
	put_u32(pen, label->chunk_size);
	DMS_TRY(put_text(pen, "device", label->device, 192));
	DMS_TRY(put_text(pen, "store", label->store, 128));
	DMS_TRY(put_text(pen, "mount point", label->mount_point, 128));
	return put_text(pen, "mount options", label->mount_options, 128);
}

struct dms_error *dms_label_encode(const struct dms_label *label, void *sector)
{
	struct pen pen = { sector };

	if (label->nr_history > DMS_LABEL_MAX_HISTORY)
		return dms_error_create(DMS_ERR_INVALID_ARGUMENT,
					"label: %u history entries, %d fit", label->nr_history,
					DMS_LABEL_MAX_HISTORY);
	memset(sector, 0, DMS_LABEL_SECTOR_BYTES);
	put_head(&pen, label);
	DMS_TRY(put_text(&pen, "name", label->name, 64));
	DMS_TRY(put_text(&pen, "fs_type", label->fs_type, 16));
	DMS_TRY(put_text(&pen, "fs_uuid", label->fs_uuid, 40));
	DMS_TRY(put_text(&pen, "host", label->host, 64));
	DMS_TRY(put_owner(&pen, label));
	pen.at += RESERVED_BYTES;
	for (uint32_t i = 0; i < label->nr_history; i++)
		put_history(&pen, &label->history[i]);
	dms_store_le32((uint8_t *)sector + CRC_OFFSET, checksum(sector));
	return NULL;
}
