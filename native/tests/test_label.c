// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE /* memfd_create */
#include <sys/mman.h>
#include <unistd.h>

#include <dmsnap/checksum.h>
#include <dmsnap/label.h>

#include "image.h"
#include "test.h"

#define MIB (1024ull * 1024)
#define DEVICE_BYTES (64 * MIB + 512 * 3) /* ends inside a block */
#define SECTOR DMS_LABEL_SECTOR_BYTES

static struct dms_label example(void)
{
	struct dms_label label = {
		.size_bytes = 32 * MIB + 512,
		.state = DMS_LABEL_CONSISTENT,
		.flags = DMS_LABEL_KEEP,
		.point_time_ns = 1763800000000000000ull,
		.next_point_time_ns = 5,
		.history_offset_bytes = 33 * MIB,
		.history_length_bytes = 8 * MIB,
		.name = "0123456789012345678901234567890123456789012345678901234567890123",
		.fs_type = "ext4",
		.fs_uuid = "7f8a3c1e-3b52-4f7c-9f0b-0a4a5cf35b11",
		.host = "example",
		.lease_time_ns = 6,
		.block_size = 128,
		.chunk_size = 8,
		.device = "/dev/disk/by-id/wwn-0x5000c500a1b2c3d4-part1",
		.store = "/var/lib/dmsnap/store",
		.mount_point = "/srv",
		.mount_options = "rw,noatime",
		.nr_history = 2,
		.history = {
			{ .point_time_ns = 4, .store_offset_bytes = 33 * MIB,
			  .store_length_bytes = 4 * MIB, .chunk_size = 8 },
			{ .point_time_ns = 3, .store_offset_bytes = 39 * MIB,
			  .store_length_bytes = 2 * MIB, .chunk_size = 128,
			  .flags = DMS_LABEL_KEEP },
		},
	};

	memset(label.volume_uuid, 0x11, 16);
	memset(label.recovery_uuid, 0x22, 16);
	memset(label.point_uuid, 0x33, 16);
	memset(label.next_point_uuid, 0x44, 16);
	memset(label.history[1].point_uuid, 0x55, 16);
	memset(label.host_uuid, 0x66, 16);
	return label;
}

static int device(void)
{
	int fd = memfd_create("device", MFD_CLOEXEC);

	CHECK(fd >= 0 && !ftruncate(fd, DEVICE_BYTES));
	return fd;
}

static void reseal(uint8_t *sector)
{
	put_le32(sector + 8, 0);
	put_le32(sector + 8, dms_bm_checksum(sector, SECTOR, 0x4d534e4c));
}

/* The table in docs/FORMATS.md, against the encoder. */
static void layout(void)
{
	struct dms_label label = example(), decoded;
	uint8_t sector[SECTOR], zero[SECTOR] = { 0 };

	label.generation = 0x1122334455667788ull;
	CHECK_OK(dms_label_encode(&label, sector));
	CHECK(!memcmp(sector, "DMSNAPLB", 8));
	CHECK(get_le32(sector + 12) == 2);
	CHECK(get_le64(sector + 16) == label.generation);
	CHECK(get_le64(sector + 24) == label.size_bytes);
	CHECK(sector[32] == 0x11 && sector[48] == 0x22 && sector[72] == 0x33 && sector[96] == 0x44);
	CHECK(get_le32(sector + 64) == DMS_LABEL_CONSISTENT && get_le32(sector + 68) == 1);
	CHECK(get_le64(sector + 88) == label.point_time_ns && get_le64(sector + 112) == 5);
	CHECK(get_le64(sector + 120) == 33 * MIB && get_le64(sector + 128) == 8 * MIB);
	CHECK(get_le32(sector + 136) == 2 && get_le32(sector + 140) == 0);
	CHECK(!memcmp(sector + 144, label.name, 64) && !memcmp(sector + 208, "ext4\0", 5));
	CHECK(!memcmp(sector + 224, label.fs_uuid, 37) && !memcmp(sector + 264, "example\0", 8));
	CHECK(sector[328] == 0x66 && get_le64(sector + 344) == 6);
	CHECK(get_le32(sector + 352) == 128 && get_le32(sector + 356) == 8);
	CHECK(!memcmp(sector + 360, label.device, 192) && !memcmp(sector + 552, label.store, 128));
	CHECK(!memcmp(sector + 680, label.mount_point, 128));
	CHECK(!memcmp(sector + 808, label.mount_options, 128));
	CHECK(!memcmp(sector + 936, zero, 1024 - 936));
	CHECK(sector[1024 + 48] == 0x55 && get_le64(sector + 1024 + 48 + 16) == 3);
	CHECK(get_le64(sector + 1024 + 24) == 33 * MIB && get_le64(sector + 1024 + 32) == 4 * MIB);
	CHECK(get_le32(sector + 1024 + 48 + 40) == 128 && get_le32(sector + 1024 + 48 + 44) == 1);
	CHECK(!memcmp(sector + 1024 + 96, zero, SECTOR - 1024 - 96));
	CHECK_OK(dms_label_decode(sector, DEVICE_BYTES, &decoded));
	CHECK(!memcmp(&decoded, &label, sizeof(label)));
}

static void forget_owner(struct dms_label *label)
{
	memset(label->host_uuid, 0, sizeof(label->host_uuid));
	label->lease_time_ns = 0;
	label->block_size = 0;
	label->chunk_size = 0;
	label->device[0] = '\0';
	label->store[0] = '\0';
	label->mount_point[0] = '\0';
	label->mount_options[0] = '\0';
}

/* A label without what version 2 has is a label of version 1, which is read as ever. */
static void version_1(void)
{
	struct dms_label label = example(), decoded;
	uint8_t sector[SECTOR], zero[SECTOR] = { 0 };

	label.generation = 7;
	forget_owner(&label);
	CHECK_OK(dms_label_encode(&label, sector));
	CHECK(get_le32(sector + 12) == 1 && !memcmp(sector + 328, zero, 1024 - 328));
	CHECK_OK(dms_label_decode(sector, DEVICE_BYTES, &decoded));
	CHECK(!strcmp(decoded.host, "example") && !decoded.lease_time_ns && !decoded.device[0]);
	put_le32(sector + 12, 2);
	reseal(sector);
	CHECK_MESSAGE(dms_label_decode(sector, DEVICE_BYTES, &decoded), DMS_ERR_CORRUPT,
		      "no more than 1");
	for (unsigned int at = 328; at < 1024; at += 87) {
		CHECK_OK(dms_label_encode(&label, sector));
		sector[at] = 1;
		reseal(sector);
		CHECK_ERROR(dms_label_decode(sector, DEVICE_BYTES, &decoded), DMS_ERR_CORRUPT);
	}
}

/* Change one thing of a good label; decode must say why it is none. */
static void rejects(void (*change)(struct dms_label *), int code, const char *part)
{
	struct dms_label label = example(), decoded;
	uint8_t sector[SECTOR];

	label.generation = 1;
	change(&label);
	CHECK_OK(dms_label_encode(&label, sector));
	CHECK_MESSAGE(dms_label_decode(sector, DEVICE_BYTES, &decoded), code, part);
}

static void generation_0(struct dms_label *l) { l->generation = 0; }
static void state_0(struct dms_label *l) { l->state = 0; }
static void state_6(struct dms_label *l) { l->state = 6; }
static void flags_2(struct dms_label *l) { l->flags = 2; }
static void no_size(struct dms_label *l) { l->size_bytes = 0; }
static void too_large(struct dms_label *l) { l->size_bytes = 64 * MIB; }
static void huge(struct dms_label *l) { l->size_bytes = UINT64_MAX; }
static void history_in_replica(struct dms_label *l) { l->history_offset_bytes = 32 * MIB; }
static void history_in_label(struct dms_label *l) { l->history_length_bytes = 31 * MIB; }
static void history_wraps(struct dms_label *l) { l->history_length_bytes = -(uint64_t)SECTOR; }
static void history_unaligned(struct dms_label *l) { l->history_length_bytes += 512; }
static void no_history_region(struct dms_label *l) { l->history_length_bytes = 0; }
static void store_before(struct dms_label *l) { l->history[0].store_offset_bytes = 32 * MIB; }
static void store_behind(struct dms_label *l) { l->history[1].store_offset_bytes = 40 * MIB; }
static void store_wraps(struct dms_label *l) { l->history[1].store_length_bytes = -(uint64_t)SECTOR; }
static void store_unaligned(struct dms_label *l) { l->history[0].store_offset_bytes += 512; }
static void store_empty(struct dms_label *l) { l->history[0].store_length_bytes = 0; }
static void stores_overlap(struct dms_label *l) { l->history[1].store_offset_bytes = 36 * MIB; }
static void chunk_0(struct dms_label *l) { l->history[0].chunk_size = 0; }
static void chunk_24(struct dms_label *l) { l->history[0].chunk_size = 24; }
static void entry_flags(struct dms_label *l) { l->history[0].flags = 4; }
static void block_24(struct dms_label *l) { l->block_size = 24; }
static void point_chunk_24(struct dms_label *l) { l->chunk_size = 24; }
static void control_store(struct dms_label *l) { l->store[1] = '\x1b'; }
static void control_name(struct dms_label *l) { l->name[3] = '\n'; }

static void checks(void)
{
	rejects(generation_0, DMS_ERR_CORRUPT, "generation");
	rejects(state_0, DMS_ERR_CORRUPT, "state");
	rejects(state_6, DMS_ERR_CORRUPT, "state");
	rejects(flags_2, DMS_ERR_UNSUPPORTED, "flags");
	rejects(no_size, DMS_ERR_OUT_OF_BOUNDS, "replica");
	rejects(too_large, DMS_ERR_OUT_OF_BOUNDS, "replica");
	rejects(huge, DMS_ERR_OUT_OF_BOUNDS, "replica");
	rejects(history_in_replica, DMS_ERR_OUT_OF_BOUNDS, "history");
	rejects(history_in_label, DMS_ERR_OUT_OF_BOUNDS, "history");
	rejects(history_wraps, DMS_ERR_OUT_OF_BOUNDS, "history");
	rejects(history_unaligned, DMS_ERR_OUT_OF_BOUNDS, "history");
	rejects(no_history_region, DMS_ERR_OUT_OF_BOUNDS, "history entry 0");
	rejects(store_before, DMS_ERR_OUT_OF_BOUNDS, "history entry 0");
	rejects(store_behind, DMS_ERR_OUT_OF_BOUNDS, "history entry 1");
	rejects(store_wraps, DMS_ERR_OUT_OF_BOUNDS, "history entry 1");
	rejects(store_unaligned, DMS_ERR_OUT_OF_BOUNDS, "history entry 0");
	rejects(store_empty, DMS_ERR_OUT_OF_BOUNDS, "history entry 0");
	rejects(stores_overlap, DMS_ERR_CORRUPT, "overlap");
	rejects(chunk_0, DMS_ERR_CORRUPT, "chunk size");
	rejects(chunk_24, DMS_ERR_CORRUPT, "chunk size");
	rejects(entry_flags, DMS_ERR_UNSUPPORTED, "flags");
	rejects(block_24, DMS_ERR_CORRUPT, "blocks of 24");
	rejects(point_chunk_24, DMS_ERR_CORRUPT, "chunks of 24");
	rejects(control_store, DMS_ERR_CORRUPT, "store");
	rejects(control_name, DMS_ERR_CORRUPT, "name");
}

/* Bytes that no field covers, and counts that lie. */
static void raw_bytes(void)
{
	static const struct {
		unsigned int at;
		uint8_t value;
		int code;
	} changes[] = {
		{ 0, 'X', DMS_ERR_BAD_MAGIC },	 { 12, 3, DMS_ERR_UNSUPPORTED },
		{ 136, 65, DMS_ERR_CORRUPT },	 { 137, 1, DMS_ERR_CORRUPT },
		{ 140, 1, DMS_ERR_CORRUPT },	 { 936, 1, DMS_ERR_CORRUPT },
		{ 1023, 1, DMS_ERR_CORRUPT },	 { 1024 + 96, 1, DMS_ERR_CORRUPT },
		{ 4095, 1, DMS_ERR_CORRUPT },	 { 208 + 10, 'x', DMS_ERR_CORRUPT },
	};
	struct dms_label label = example(), decoded;
	uint8_t sector[SECTOR];

	label.generation = 1;
	for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
		CHECK_OK(dms_label_encode(&label, sector));
		sector[changes[i].at] = changes[i].value;
		reseal(sector);
		CHECK_ERROR(dms_label_decode(sector, DEVICE_BYTES, &decoded), changes[i].code);
	}
	for (unsigned int at = 8; at < SECTOR; at++) {
		CHECK_OK(dms_label_encode(&label, sector));
		sector[at] ^= 0x10;
		CHECK_ERROR(dms_label_decode(sector, DEVICE_BYTES, &decoded), DMS_ERR_CHECKSUM);
	}
}

static void encode_limits(void)
{
	struct dms_label label = example();
	uint8_t sector[SECTOR];

	label.nr_history = 65;
	CHECK_ERROR(dms_label_encode(&label, sector), DMS_ERR_INVALID_ARGUMENT);
	label = example();
	memset(label.host, 'x', sizeof(label.host));
	CHECK_MESSAGE(dms_label_encode(&label, sector), DMS_ERR_INVALID_ARGUMENT, "host");
}

static void spoil(int fd, unsigned int slot)
{
	uint8_t byte = 0xff;

	CHECK(pwrite(fd, &byte, 1, (off_t)(dms_label_offset(DEVICE_BYTES) + slot * SECTOR + 2000)) ==
	      1);
}

static void expect(int fd, uint64_t generation, enum dms_label_twin twin)
{
	struct dms_label label;

	CHECK_OK(dms_label_read(fd, DEVICE_BYTES, &label));
	CHECK(label.generation == generation);
	CHECK(label.twin == twin);
}

/* As dmsnap did before version 2: one sector after the other, each label to one of them. */
static void put_slot(int fd, unsigned int slot, const struct dms_label *label)
{
	uint8_t sector[SECTOR];

	CHECK_OK(dms_label_encode(label, sector));
	CHECK(pwrite(fd, sector, SECTOR,
		     (off_t)(dms_label_offset(DEVICE_BYTES) + slot * SECTOR)) == SECTOR);
}

static void written_in_turn(void)
{
	struct dms_label label = example();
	int fd = device();

	forget_owner(&label);
	label.generation = 1;
	put_slot(fd, 0, &label);
	expect(fd, 1, DMS_LABEL_TWIN_EARLIER);
	label.generation = 2;
	put_slot(fd, 1, &label);
	expect(fd, 2, DMS_LABEL_TWIN_EARLIER);
	spoil(fd, 1); /* the later one: what was done since cannot be known */
	expect(fd, 1, DMS_LABEL_TWIN_EARLIER); /* but of a first label nothing is good anyway */
	label.generation = 3;
	put_slot(fd, 0, &label);
	expect(fd, 3, DMS_LABEL_TWIN_DOUBTFUL);
	label.lease_time_ns = 1;
	CHECK_OK(dms_label_write(fd, DEVICE_BYTES, &label));
	expect(fd, 4, DMS_LABEL_TWIN_SAME);
	close(fd);
}

static void slots(void)
{
	struct dms_label label = example();
	int fd = device();

	CHECK(dms_label_offset(DEVICE_BYTES) == 64 * MIB - 8192);
	CHECK_ERROR(dms_label_read(fd, DEVICE_BYTES, &label), DMS_ERR_BAD_MAGIC);
	for (uint64_t generation = 1; generation < 6; generation++) {
		CHECK_OK(dms_label_write(fd, DEVICE_BYTES, &label));
		CHECK(label.generation == generation);
		expect(fd, generation, DMS_LABEL_TWIN_SAME);
	}
	/* Each of the two is enough, and says that the other is damaged … */
	spoil(fd, 0);
	expect(fd, 5, DMS_LABEL_TWIN_DAMAGED);
	/* … which the next write mends. */
	CHECK_OK(dms_label_write(fd, DEVICE_BYTES, &label));
	CHECK(label.generation == 6 && label.twin == DMS_LABEL_TWIN_SAME);
	expect(fd, 6, DMS_LABEL_TWIN_SAME);
	spoil(fd, 1);
	expect(fd, 6, DMS_LABEL_TWIN_DAMAGED);
	CHECK_OK(dms_label_write(fd, DEVICE_BYTES, &label));
	expect(fd, 7, DMS_LABEL_TWIN_SAME);
	spoil(fd, 1);
	spoil(fd, 0);
	CHECK_ERROR(dms_label_read(fd, DEVICE_BYTES, &label), DMS_ERR_CHECKSUM);
	CHECK_OK(dms_label_wipe(fd, DEVICE_BYTES));
	CHECK_ERROR(dms_label_read(fd, DEVICE_BYTES, &label), DMS_ERR_BAD_MAGIC);
	close(fd);
}

/* What no reader would take is not written, and nothing changes. */
static void write_checks(void)
{
	struct dms_label label = example();
	int fd = device();

	CHECK_OK(dms_label_write(fd, DEVICE_BYTES, &label));
	label.size_bytes = 64 * MIB;
	CHECK_ERROR(dms_label_write(fd, DEVICE_BYTES, &label), DMS_ERR_INVALID_ARGUMENT);
	CHECK(label.generation == 1);
	expect(fd, 1, DMS_LABEL_TWIN_SAME);
	CHECK_ERROR(dms_label_read(fd, 4096, &label), DMS_ERR_BAD_MAGIC);
	CHECK_ERROR(dms_label_write(fd, 8191, &label), DMS_ERR_INVALID_ARGUMENT);
	CHECK_ERROR(dms_label_wipe(fd, 0), DMS_ERR_INVALID_ARGUMENT);
	CHECK_ERROR(dms_label_read(-1, DEVICE_BYTES, &label), DMS_ERR_OS);
	close(fd);
}

/* A generation that cannot be followed by another. */
static void last_generation(void)
{
	struct dms_label label = example();
	uint8_t sector[SECTOR];
	int fd = device();

	label.generation = UINT64_MAX;
	CHECK_OK(dms_label_encode(&label, sector));
	CHECK(pwrite(fd, sector, SECTOR, (off_t)dms_label_offset(DEVICE_BYTES)) == SECTOR);
	expect(fd, UINT64_MAX, DMS_LABEL_TWIN_DAMAGED);
	CHECK_ERROR(dms_label_write(fd, DEVICE_BYTES, &label), DMS_ERR_UNSUPPORTED);
	close(fd);
}

int main(void)
{
	layout();
	version_1();
	checks();
	raw_bytes();
	encode_limits();
	slots();
	written_in_turn();
	write_checks();
	last_generation();
	return 0;
}
