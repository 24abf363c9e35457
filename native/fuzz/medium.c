// SPDX-License-Identifier: Apache-2.0
/*
 * One memory file, mapped: the input gets there without a system call, and the size is set only
 * where it differs from the last.
 */
#define _GNU_SOURCE /* memfd_create */
#include <sys/mman.h>
#include <unistd.h>

#include "../tests/test.h"
#include "fuzz.h"

static struct {
	int fd;
	uint8_t *bytes;
	size_t size;
	/* Where the last input's data is. */
	size_t offset;
	size_t data_size;
} medium = { .fd = -1 };

static void open_medium(void)
{
	medium.fd = memfd_create("medium", MFD_CLOEXEC);
	CHECK(medium.fd >= 0);
	medium.bytes = mmap(NULL, FUZZ_MAX_MEDIUM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED,
			    medium.fd, 0);
	CHECK(medium.bytes != MAP_FAILED);
}

static void wipe(void)
{
	if (medium.data_size)
		memset(medium.bytes + medium.offset, 0, medium.data_size);
	medium.data_size = 0;
}

int fuzz_medium(const uint8_t *data, size_t data_size, size_t offset, size_t size)
{
	CHECK(offset <= size && size <= FUZZ_MAX_MEDIUM_BYTES);
	if (fuzz_check_buffers)
		fuzz_check_buffers();
	if (data_size > size - offset)
		data_size = size - offset;
	if (medium.fd < 0)
		open_medium();
	if (offset != medium.offset || data_size < medium.data_size)
		wipe();
	if (size != medium.size)
		CHECK(!ftruncate(medium.fd, (off_t)size));
	if (data_size)
		memcpy(medium.bytes + offset, data, data_size);
	medium.size = size;
	medium.offset = offset;
	medium.data_size = data_size;
	return medium.fd;
}

const uint8_t *fuzz_medium_bytes(void)
{
	return medium.bytes;
}

uint64_t fuzz_nr_wrong_checksums;

void fuzz_refused(struct dms_error *error)
{
	fuzz_nr_wrong_checksums += error->code == DMS_ERR_CHECKSUM;
	CHECK(error->code != DMS_ERR_OS && error->code != DMS_ERR_NO_MEMORY &&
	      error->code != DMS_ERR_INVALID_ARGUMENT);
	CHECK(error->message[0]);
	dms_error_destroy(error);
}

void fuzz_check_extents(const struct dms_extent_set *set, uint64_t end_bytes)
{
	const struct dms_extent *extents = dms_extent_set_extents(set);
	size_t count = dms_extent_set_count(set);
	uint64_t bytes = 0, end = 0;

	for (size_t i = 0; i < count; i++) {
		CHECK(extents[i].length_bytes);
		CHECK(!i || extents[i].offset_bytes > end);
		CHECK(extents[i].length_bytes <= UINT64_MAX - extents[i].offset_bytes);
		end = extents[i].offset_bytes + extents[i].length_bytes;
		bytes += extents[i].length_bytes;
	}
	CHECK(end <= end_bytes);
	CHECK(dms_extent_set_bytes(set) == bytes);
}
