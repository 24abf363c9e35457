// SPDX-License-Identifier: Apache-2.0
#include <linux/capability.h>
#include <linux/fsmap.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <dmsnap/fs_map.h>

#include "cleanup.h"
#include "fs_ioctl.h"

#define RECORDS 16384u

struct mapping {
	int fd;
	uint32_t device; /* as the kernel's new_encode_dev() writes it */
	uint64_t size_bytes;
	uint64_t end_bytes; /* of the last record of the device */
	struct fsmap_head *head;
	struct dms_extent_set *unused;
};

static uint32_t encode_device(dev_t device)
{
	return (minor(device) & 0xff) | (major(device) << 8) | ((minor(device) & ~0xffu) << 12);
}

/* The calling thread's capabilities. */
struct capabilities {
	struct __user_cap_header_struct header;
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
};

/*
 * The same question without CAP_SYS_ADMIN. With it, XFS answers out of its
 * reverse mappings where it has them, and calls every gap in them free: while
 * two files exchange extents (xfs_fsr) there is a gap where data is. Without
 * it, XFS answers out of its free space btree, which never has those
 * (fs/xfs/xfs_fsmap.c, xfs_getfsmap).
 */
static int ask_unprivileged(int fd, struct fsmap_head *head)
{
	struct capabilities former = { .header.version = _LINUX_CAPABILITY_VERSION_3 };
	struct capabilities without;
	int result;

	if (syscall(SYS_capget, &former.header, former.data) < 0)
		return errno;
	without = former;
	without.data[CAP_TO_INDEX(CAP_SYS_ADMIN)].effective &= ~CAP_TO_MASK(CAP_SYS_ADMIN);
	if (syscall(SYS_capset, &without.header, without.data) < 0)
		return errno;
	result = dms_fs_ioctl(fd, FS_IOC_GETFSMAP, head);
	return syscall(SYS_capset, &former.header, former.data) < 0 ? errno : result;
}

static struct dms_error *ask(struct mapping *mapping)
{
	struct fsmap_head *head = mapping->head;
	int result = ask_unprivileged(mapping->fd, head);

	if (dms_fs_is_unsupported(result))
		return dms_error_create(DMS_ERR_UNSUPPORTED,
					"the file system does not say what it uses");
	if (result)
		return dms_error_create_os(result, "asking what the file system uses");
	if (head->fmh_entries > RECORDS)
		return dms_error_create(DMS_ERR_UNSUPPORTED,
					"the file system's map has more than was asked for");
	if (head->fmh_entries && !(head->fmh_oflags & FMH_OF_DEV_T))
		return dms_error_create(DMS_ERR_UNSUPPORTED,
					"the file system does not name the devices it uses");
	return NULL;
}

static bool is_free(const struct fsmap *record)
{
	return record->fmr_flags & FMR_OF_SPECIAL_OWNER && record->fmr_owner == FMR_OWN_FREE;
}

/* Records of the device ascend and do not overlap; anything else is not believed. */
static struct dms_error *take(struct mapping *mapping, const struct fsmap *record)
{
	uint64_t end = record->fmr_physical + record->fmr_length;

	if (record->fmr_device != mapping->device)
		return NULL;
	if (end < record->fmr_physical || record->fmr_physical < mapping->end_bytes ||
	    end > mapping->size_bytes)
		return dms_error_create_at(DMS_ERR_UNSUPPORTED, record->fmr_physical,
					   "the file system's map has %llu bytes out of place",
					   (unsigned long long)record->fmr_length);
	mapping->end_bytes = end;
	if (!is_free(record))
		return NULL;
	return dms_extent_set_add(mapping->unused, record->fmr_physical, record->fmr_length);
}

static struct dms_error *take_all(struct mapping *mapping)
{
	const struct fsmap_head *head = mapping->head;
	struct dms_error *error = NULL;
	uint32_t i;

	for (i = 0; !error && i < head->fmh_entries; i++)
		error = take(mapping, &head->fmh_recs[i]);
	return error;
}

static struct dms_error *map_all(struct mapping *mapping)
{
	struct fsmap_head *head = mapping->head;
	struct fsmap *high = &head->fmh_keys[1];

	head->fmh_count = RECORDS;
	*high = (struct fsmap){
		.fmr_device = UINT32_MAX,
		.fmr_flags = UINT32_MAX,
		.fmr_physical = UINT64_MAX,
		.fmr_owner = UINT64_MAX,
		.fmr_offset = UINT64_MAX,
	};
	for (;;) {
		DMS_TRY(ask(mapping));
		if (!head->fmh_entries)
			return NULL;
		DMS_TRY(take_all(mapping));
		if (head->fmh_recs[head->fmh_entries - 1].fmr_flags & FMR_OF_LAST)
			return NULL;
		fsmap_advance(head);
	}
}

struct dms_error *dms_fs_map_unused(int fd, uint64_t size_bytes, struct dms_extent_set **unused)
{
	_cleanup_extent_set_ struct dms_extent_set *set = NULL;
	_cleanup_free_ struct fsmap_head *head = calloc(1, fsmap_sizeof(RECORDS));
	struct mapping mapping = { .fd = fd, .size_bytes = size_bytes, .head = head };
	struct stat status;

	if (!head)
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for a file system's map");
	if (fstat(fd, &status) < 0)
		return dms_error_create_os(errno, "looking at the file system");
	mapping.device = encode_device(status.st_dev);
	DMS_TRY(dms_extent_set_create(&set));
	mapping.unused = set;
	DMS_TRY(map_all(&mapping));
	*unused = dms_steal(set);
	return NULL;
}
