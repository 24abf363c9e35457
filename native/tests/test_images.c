// SPDX-License-Identifier: Apache-2.0
/*
 * test_images DIRECTORY: every image that a kernel wrote (tests/native/images,
 * unpacked) is damaged in many ways, with and without the checksum repaired,
 * and cut off in many places. What comes back must be an error or a result
 * that makes sense; the sanitizers watch the rest.
 */
#define _GNU_SOURCE /* memfd_create */
#include <dirent.h>
#include <sys/mman.h>
#include <unistd.h>

#include <dmsnap/checksum.h>
#include <dmsnap/era.h>
#include <dmsnap/exception_store.h>
#include <dmsnap/thin.h>

#include "image.h"
#include "test.h"

#define ROUNDS 500
#define THIN_ROUNDS 100 /* each asks for every device in two views */
#define CUTS 40
#define MAX_PATCH 8

/* A part of the image that holds metadata. */
struct spot {
	uint64_t offset;
	uint32_t length;
	uint32_t salt; /* of its checksum; 0: it has none */
};

struct subject {
	const char *name;
	uint8_t *bytes;
	uint64_t size;
	int fd; /* a memory file with the same content, damaged for a moment */
	struct spot *spots;
	size_t nr_spots;
	struct random random;
	/* Ask everything; 0 on success, else the code of the first error. */
	int (*ask)(const struct subject *subject);
	unsigned int accepted;
	unsigned int refused;
};

static void write_at(const struct subject *subject, const void *data, uint64_t size, uint64_t offset)
{
	CHECK(pwrite(subject->fd, data, size, (off_t)offset) == (ssize_t)size);
}

static void load(struct subject *subject, const char *path)
{
	FILE *file = fopen(path, "rb");

	CHECK(file && !fseek(file, 0, SEEK_END));
	subject->size = (uint64_t)ftell(file);
	rewind(file);
	subject->bytes = malloc(subject->size);
	CHECK(subject->bytes && fread(subject->bytes, 1, subject->size, file) == subject->size);
	fclose(file);
	subject->fd = memfd_create("image", MFD_CLOEXEC);
	CHECK(subject->fd >= 0);
	write_at(subject, subject->bytes, subject->size, 0);
	subject->spots = calloc(subject->size / 512 + 2, sizeof(*subject->spots));
	CHECK(subject->spots);
}

static void add_spot(struct subject *subject, uint64_t offset, uint32_t length, uint32_t salt)
{
	subject->spots[subject->nr_spots++] = (struct spot){ offset, length, salt };
}

static int code_of(struct dms_error *error)
{
	int code = error->code;

	CHECK(code != DMS_ERR_OS && code != DMS_ERR_NO_MEMORY && code != DMS_ERR_INVALID_ARGUMENT);
	CHECK(error->message[0]);
	dms_error_destroy(error);
	return code;
}

static int ask_era(const struct subject *subject)
{
	static const uint32_t since[] = { 0, 1, 4, UINT32_MAX };
	struct dms_era_metadata *metadata;
	struct dms_error *error = dms_era_metadata_open(subject->fd, &metadata);
	int code = 0;

	if (error)
		return code_of(error);
	for (unsigned int i = 0; i < 8; i++) {
		const struct dms_era_superblock *superblock = dms_era_metadata_superblock(metadata);
		uint64_t end = (uint64_t)superblock->nr_blocks * superblock->data_block_size * 512;
		struct dms_extent_set *set;
		size_t count;

		error = dms_era_written_since(metadata, since[i / 2], i % 2, &set);
		if (error) {
			if (error->code == DMS_ERR_NO_METADATA_SNAPSHOT)
				dms_error_destroy(error);
			else
				code = code_of(error);
			continue;
		}
		count = dms_extent_set_count(set);
		if (count) {
			const struct dms_extent *last = &dms_extent_set_extents(set)[count - 1];

			CHECK(last->offset_bytes + last->length_bytes <= end);
		}
		dms_extent_set_destroy(set);
	}
	dms_era_metadata_close(metadata);
	return code;
}

static int ask_difference(const struct dms_thin_metadata *metadata, uint32_t from, uint32_t to)
{
	struct dms_thin_difference difference;
	struct dms_error *error = dms_thin_difference(metadata, from, to, &difference);

	if (error)
		return code_of(error);
	dms_extent_set_destroy(difference.added);
	dms_extent_set_destroy(difference.removed);
	dms_extent_set_destroy(difference.changed);
	return 0;
}

static int ask_mappings(const struct dms_thin_metadata *metadata,
			const struct dms_thin_device *device)
{
	const struct dms_thin_superblock *superblock = dms_thin_metadata_superblock(metadata);
	struct dms_thin_mappings *mappings;
	struct dms_error *error = dms_thin_mappings_read(metadata, device->dev_id, &mappings);
	uint64_t total = 0, end = 0;

	if (error)
		return code_of(error);
	for (size_t i = 0; i < dms_thin_mappings_count(mappings); i++) {
		const struct dms_thin_mapping *mapping = &dms_thin_mappings_list(mappings)[i];

		CHECK(mapping->thin_block >= end && mapping->nr_blocks);
		end = mapping->thin_block + mapping->nr_blocks;
		CHECK(mapping->data_block + mapping->nr_blocks <= superblock->data_nr_blocks);
		total += mapping->nr_blocks;
	}
	CHECK(total == device->mapped_blocks);
	dms_thin_mappings_destroy(mappings);
	return 0;
}

static int ask_thin_view(const struct subject *subject, bool from_snapshot)
{
	struct dms_thin_metadata *metadata;
	struct dms_error *error = dms_thin_metadata_open(subject->fd, from_snapshot, &metadata);
	const struct dms_thin_device *devices;
	int code = 0;

	if (error && error->code == DMS_ERR_NO_METADATA_SNAPSHOT) {
		dms_error_destroy(error);
		return 0;
	}
	if (error)
		return code_of(error);
	devices = dms_thin_metadata_devices(metadata);
	for (size_t i = 0; i < dms_thin_metadata_nr_devices(metadata); i++) {
		int first = ask_mappings(metadata, &devices[i]);
		int second = ask_difference(metadata, devices[0].dev_id, devices[i].dev_id);

		code = code ? code : first ? first : second;
	}
	dms_thin_metadata_close(metadata);
	return code;
}

static int ask_thin(const struct subject *subject)
{
	int live = ask_thin_view(subject, false), snapshot = ask_thin_view(subject, true);

	return live ? live : snapshot;
}

static void find_block_spots(struct subject *subject)
{
	static const uint32_t salts[] = { SUPERBLOCK_SALT, NODE_SALT, ARRAY_SALT,
					  THIN_SUPERBLOCK_SALT };

	for (uint64_t at = 0; at < subject->size; at += IMAGE_BLOCK) {
		const uint8_t *block = subject->bytes + at;

		for (size_t i = 0; i < sizeof(salts) / sizeof(salts[0]); i++)
			if (get_le32(block) ==
			    dms_bm_checksum(block + 4, IMAGE_BLOCK - 4, salts[i]))
				add_spot(subject, at, IMAGE_BLOCK, salts[i]);
	}
}

/* Old blocks lie about that nothing refers to any more; only those that are read are worth damaging. */
static void drop_unread_spots(struct subject *subject)
{
	size_t nr_read = 0;

	for (size_t i = 0; i < subject->nr_spots; i++) {
		const struct spot *spot = &subject->spots[i];
		uint8_t flipped = subject->bytes[spot->offset + 2000] ^ 1;

		write_at(subject, &flipped, 1, spot->offset + 2000);
		if (subject->ask(subject))
			subject->spots[nr_read++] = *spot;
		write_at(subject, subject->bytes + spot->offset + 2000, 1, spot->offset + 2000);
	}
	CHECK(nr_read >= 3);
	subject->nr_spots = nr_read;
}

static int ask_store(const struct subject *subject)
{
	struct dms_exception_store *store;
	const struct dms_exception_store_header *header;
	struct dms_extent_set *set;
	struct dms_error *error;
	uint64_t size = (uint64_t)lseek(subject->fd, 0, SEEK_END);

	error = dms_exception_store_open(subject->fd, 0, size, &store);
	if (error)
		return code_of(error);
	header = dms_exception_store_header(store);
	error = dms_exception_store_extents(store, &set);
	if (error) {
		CHECK(error->code == DMS_ERR_STORE_INVALID && !header->valid);
		dms_error_destroy(error);
	} else {
		uint64_t chunk_bytes = header->chunk_size * 512ull;

		CHECK(dms_exception_store_count(store) < size / chunk_bytes);
		CHECK(dms_extent_set_bytes(set) == dms_exception_store_count(store) * chunk_bytes);
		dms_extent_set_destroy(set);
	}
	dms_exception_store_close(store);
	return 0;
}

static void find_store_spots(struct subject *subject)
{
	uint64_t chunk_bytes = get_le32(subject->bytes + 12) * 512ull;
	uint64_t stride = (chunk_bytes / 16 + 1) * chunk_bytes;

	add_spot(subject, 0, 16, 0);
	for (uint64_t at = chunk_bytes; at + chunk_bytes <= subject->size; at += stride)
		add_spot(subject, at, (uint32_t)chunk_bytes, 0);
}

/* Values that counts, sizes and block numbers are most surprised by. */
static uint64_t surprising(struct subject *subject)
{
	static const uint64_t values[] = { 0, 1, 2, 3, 0x7fffffff, 0x80000000, UINT32_MAX,
					   INT64_MAX, UINT64_MAX };
	uint64_t choice = next_random(&subject->random) % 16;

	if (choice < sizeof(values) / sizeof(values[0]))
		return values[choice];
	if (choice < 13)
		return subject->spots[next_random(&subject->random) % subject->nr_spots].offset /
		       IMAGE_BLOCK;
	return next_random(&subject->random);
}

static void patch(struct subject *subject, uint8_t *bytes)
{
	uint64_t value;

	switch (next_random(&subject->random) % 3) {
	case 0:
		bytes[0] ^= (uint8_t)(1 << next_random(&subject->random) % 8);
		break;
	case 1:
		put_le32(bytes, (uint32_t)surprising(subject));
		break;
	case 2:
		value = surprising(subject);
		put_le64(bytes, value);
		break;
	}
}

static void damage(struct subject *subject)
{
	const struct spot *spot =
		&subject->spots[next_random(&subject->random) % subject->nr_spots];
	/* Headers are small, and everything depends on them. */
	uint32_t range = next_random(&subject->random) % 2 && spot->length > 256 ? 256 : spot->length;
	uint32_t at = (uint32_t)(next_random(&subject->random) % (range - MAX_PATCH + 1));
	uint8_t *copy = malloc(spot->length);

	CHECK(copy);
	memcpy(copy, subject->bytes + spot->offset, spot->length);
	patch(subject, copy + (at & ~3u));
	if (spot->salt && next_random(&subject->random) % 4)
		put_le32(copy, dms_bm_checksum(copy + 4, spot->length - 4, spot->salt));
	write_at(subject, copy, spot->length, spot->offset);
	free(copy);
	if (subject->ask(subject))
		subject->refused++;
	else
		subject->accepted++;
	write_at(subject, subject->bytes + spot->offset, spot->length, spot->offset);
}

static void cut(struct subject *subject)
{
	uint64_t size = next_random(&subject->random) % subject->size;

	CHECK(!ftruncate(subject->fd, (off_t)size));
	subject->ask(subject);
	write_at(subject, subject->bytes + size, subject->size - size, size);
}

/* DMSNAP_FEWER=n: one of n. Under valgrind every open of an image is dear: see the Makefile. */
static unsigned int fewer(unsigned int rounds)
{
	const char *part = getenv("DMSNAP_FEWER");

	return part ? rounds / (unsigned int)strtoul(part, NULL, 10) : rounds;
}

static void attack(const char *directory, const char *name)
{
	struct subject subject = { .name = name, .random = { 20261122 } };
	bool store = !strncmp(name, "store-", 6), thin = !strncmp(name, "thin-", 5);
	unsigned int rounds = fewer(thin ? THIN_ROUNDS : ROUNDS);
	char path[4096];

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	load(&subject, path);
	subject.ask = store ? ask_store : thin ? ask_thin : ask_era;
	CHECK(!subject.ask(&subject));
	if (store) {
		find_store_spots(&subject);
	} else {
		find_block_spots(&subject);
		drop_unread_spots(&subject);
	}
	for (unsigned int i = 0; i < rounds; i++)
		damage(&subject);
	for (unsigned int i = 0; i < fewer(CUTS); i++)
		cut(&subject);
	CHECK(!subject.ask(&subject)); /* all damage was undone */
	/* A sweep that hits nothing, or only checksums, would prove nothing. */
	if (getenv("VERBOSE"))
		fprintf(stderr, "%s: %u refused, %u accepted\n", name, subject.refused,
			subject.accepted);
	CHECK(subject.refused > rounds / 20 && subject.accepted);
	close(subject.fd);
	free(subject.bytes);
	free(subject.spots);
}

int main(int argc, char **argv)
{
	const struct dirent *entry;
	unsigned int nr_images = 0;
	DIR *directory;

	CHECK(argc == 2);
	directory = opendir(argv[1]);
	CHECK(directory);
	while ((entry = readdir(directory))) {
		if (entry->d_name[0] == '.')
			continue;
		attack(argv[1], entry->d_name);
		nr_images++;
	}
	closedir(directory);
	CHECK(nr_images > 10);
	return 0;
}
