// SPDX-License-Identifier: Apache-2.0
/*
 * Labels: each sector decoded, the choice between the two, and a write that is torn.
 * control: u32 size of the device, modulo its limit; u32 where the write stops; u64 not used.
 */
#include <unistd.h>

#include <dmsnap/checksum.h>
#include <dmsnap/label.h>

#include "../tests/image.h"
#include "../tests/test.h"
#include "fuzz.h"

#define SECTOR DMS_LABEL_SECTOR_BYTES
#define CHECKSUM_XOR 0x4d534e4c
#define CHECKSUM_AT 8

static uint32_t checksum(const uint8_t *sector)
{
	uint8_t copy[SECTOR];

	memcpy(copy, sector, SECTOR);
	put_le32(copy + CHECKSUM_AT, 0);
	return dms_bm_checksum(copy, SECTOR, CHECKSUM_XOR);
}

static bool is_label(const uint8_t *sector)
{
	return get_le32(sector + CHECKSUM_AT) == checksum(sector);
}

static void seal_label(uint8_t *sector)
{
	put_le32(sector + CHECKSUM_AT, checksum(sector));
}

static const struct fuzz_kind label_kind = {
	.is_sealed = is_label,
	.seal = seal_label,
	/* magic, version, generation, size; state, flags; history region, nr_history; texts; what
	 * version 2 has; two entries */
	.fields = { { 0, 8 }, { 12, 4 }, { 16, 8 }, { 24, 8 }, { 64, 4 }, { 68, 4 }, { 88, 8 },
		    { 120, 8 }, { 128, 8 }, { 136, 4 }, { 140, 4 }, { 144, 8 }, { 208, 4 },
		    { 328, 8 }, { 344, 8 }, { 352, 4 }, { 356, 4 }, { 360, 8 }, { 552, 8 },
		    { 680, 8 }, { 808, 8 }, { 936, 8 },
		    { 1048, 8 }, { 1056, 8 }, { 1064, 4 }, { 1068, 4 }, { 1096, 8 }, { 1104, 8 },
		    { 1112, 4 }, { 1116, 4 } },
};

const struct fuzz_layout fuzz_layout = {
	.block_bytes = SECTOR,
	.max_blocks = 2,
	.nr_kinds = 1,
	.kinds = { &label_kind },
};

/* Whether there is a label in the sector; if so, encoding it must give the same bytes. */
static bool decode(const uint8_t *sector, uint64_t device_bytes, struct dms_label *label)
{
	struct dms_error *error = dms_label_decode(sector, device_bytes, label);
	uint8_t encoded[SECTOR];

	if (error) {
		fuzz_refused(error);
		return false;
	}
	CHECK_OK(dms_label_encode(label, encoded));
	CHECK(!memcmp(encoded, sector, SECTOR));
	return true;
}

static void check_regions(const struct dms_label *label, uint64_t device_bytes)
{
	uint64_t end = device_bytes / SECTOR * SECTOR - 2 * SECTOR;

	CHECK(label->generation && label->size_bytes && label->size_bytes <= end);
	CHECK(!label->history_length_bytes || (label->history_offset_bytes >= label->size_bytes &&
					       label->history_offset_bytes <= end));
	CHECK(!label->history_length_bytes ||
	      label->history_length_bytes <= end - label->history_offset_bytes);
	CHECK(label->nr_history <= DMS_LABEL_MAX_HISTORY);
	for (uint32_t i = 0; i < label->nr_history; i++) {
		const struct dms_label_history *entry = &label->history[i];

		CHECK(entry->store_offset_bytes >= label->size_bytes);
		CHECK(entry->store_offset_bytes <= end);
		CHECK(entry->store_length_bytes <= end - entry->store_offset_bytes);
	}
}

/* What the sector beside the one with the truth is, by the same words. */
static enum dms_label_twin twin(const uint8_t *sectors, unsigned int slot, bool other_found,
				uint64_t generation)
{
	if (other_found)
		return memcmp(sectors, sectors + SECTOR, SECTOR) ? DMS_LABEL_TWIN_EARLIER :
								   DMS_LABEL_TWIN_SAME;
	if (get_le32(sectors + slot * SECTOR + 12) == 2)
		return DMS_LABEL_TWIN_DAMAGED;
	return generation == 1 ? DMS_LABEL_TWIN_EARLIER : DMS_LABEL_TWIN_DOUBTFUL;
}

/* The sector with the truth, by the words of docs/FORMATS.md; 2: neither. */
static unsigned int newest(const uint8_t *sectors, uint64_t device_bytes, struct dms_label *label)
{
	struct dms_label labels[2];
	bool found[2];

	for (unsigned int i = 0; i < 2; i++)
		found[i] = decode(sectors + i * SECTOR, device_bytes, &labels[i]);
	for (unsigned int i = 0; i < 2; i++) {
		if (!found[i] || (found[1 - i] && labels[1 - i].generation > labels[i].generation))
			continue;
		*label = labels[i];
		label->twin = twin(sectors, i, found[1 - i], label->generation);
		return i;
	}
	return 2;
}

static bool same(const struct dms_label *a, const struct dms_label *b)
{
	uint8_t encoded[2][SECTOR];

	CHECK_OK(dms_label_encode(a, encoded[0]));
	CHECK_OK(dms_label_encode(b, encoded[1]));
	return !memcmp(encoded[0], encoded[1], SECTOR);
}

static void check_read(int fd, uint64_t device_bytes, const struct dms_label *expected)
{
	struct dms_label label;

	CHECK_OK(dms_label_read(fd, device_bytes, &label));
	CHECK(same(&label, expected));
}

static void put(int fd, uint64_t offset, const uint8_t *bytes, size_t size)
{
	CHECK(pwrite(fd, bytes, size, (off_t)offset) == (ssize_t)size);
}

/*
 * What is written is read again, from either sector. While the first of them is only half there,
 * what was read before still is; while the second is, what is new.
 */
static void write_torn(int fd, uint64_t device_bytes, const struct dms_label *before,
		       unsigned int slot, size_t torn)
{
	uint64_t area = dms_label_offset(device_bytes);
	uint64_t newest_at = area + slot * SECTOR, first_at = area + (1 - slot) * SECTOR;
	struct dms_label written = *before, found;
	uint8_t sectors[2 * SECTOR], after[SECTOR];

	memcpy(sectors, fuzz_medium_bytes() + area, sizeof(sectors));
	if (before->generation == UINT64_MAX) {
		CHECK_ERROR(dms_label_write(fd, device_bytes, &written), DMS_ERR_UNSUPPORTED);
		return;
	}
	CHECK_OK(dms_label_write(fd, device_bytes, &written));
	CHECK(written.generation == before->generation + 1);
	CHECK(written.twin == DMS_LABEL_TWIN_SAME);
	check_read(fd, device_bytes, &written);
	memcpy(after, fuzz_medium_bytes() + area, SECTOR);
	CHECK(!memcmp(fuzz_medium_bytes() + area + SECTOR, after, SECTOR));
	put(fd, newest_at + torn, sectors + slot * SECTOR + torn, SECTOR - torn);
	check_read(fd, device_bytes, &written);
	put(fd, newest_at, sectors + slot * SECTOR, SECTOR);
	put(fd, first_at + torn, sectors + (1 - slot) * SECTOR + torn, SECTOR - torn);
	memcpy(sectors, fuzz_medium_bytes() + area, sizeof(sectors));
	/*
	 * That is what was read before; or what is new, where what was not written is the same bytes;
	 * or a label of its own that was damaged, and mended by the beginning of the new one.
	 */
	CHECK(newest(sectors, device_bytes, &found) < 2);
	check_read(fd, device_bytes, &found);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t sectors[2 * SECTOR] = { 0 };
	struct dms_label expected, found;
	struct dms_error *error;
	uint64_t device_bytes;
	unsigned int slot;
	int fd;

	if (!fuzz_is_input(size))
		return 0;
	device_bytes = 2 * SECTOR + get_le32(data) % (FUZZ_MAX_MEDIUM_BYTES - 2 * SECTOR);
	size -= FUZZ_CONTROL_BYTES;
	memcpy(sectors, data + FUZZ_CONTROL_BYTES, size < sizeof(sectors) ? size : sizeof(sectors));
	fd = fuzz_medium(sectors, sizeof(sectors), dms_label_offset(device_bytes), device_bytes);
	slot = newest(sectors, device_bytes, &expected);
	error = dms_label_read(fd, device_bytes, &found);
	CHECK((slot == 2) == (error != NULL));
	if (error) {
		fuzz_refused(error);
		return 0;
	}
	CHECK(same(&found, &expected) && found.twin == expected.twin);
	check_regions(&found, device_bytes);
	write_torn(fd, device_bytes, &found, slot, get_le32(data + 4) % (SECTOR + 1));
	return 0;
}
