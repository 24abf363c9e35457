// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE 1

#include <errno.h>
#include <linux/ioprio.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <dmsnap/io_priority.h>

#define THIS_THREAD 0

static bool has_levels(enum dms_io_class io_class)
{
	return io_class == DMS_IO_CLASS_REALTIME || io_class == DMS_IO_CLASS_BEST_EFFORT;
}

struct dms_error *dms_io_priority_get(struct dms_io_priority *priority)
{
	long value = syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, THIS_THREAD);

	if (value < 0)
		return dms_error_create_os(errno, "asking for the I/O priority");
	priority->io_class = (enum dms_io_class)IOPRIO_PRIO_CLASS(value);
	/* For no class kernels before 5.18 say a level all the same, and take none (ioprio_check_cap). */
	priority->level = has_levels(priority->io_class) ?
				  (uint32_t)(IOPRIO_PRIO_DATA(value) % DMS_IO_LEVELS) :
				  0;
	return NULL;
}

struct dms_error *dms_io_priority_set(const struct dms_io_priority *priority)
{
	if (priority->io_class > DMS_IO_CLASS_IDLE || priority->level >= DMS_IO_LEVELS ||
	    (priority->level && !has_levels(priority->io_class)))
		return dms_error_create(DMS_ERR_INVALID_ARGUMENT,
					"there is no I/O priority of class %d and level %u",
					(int)priority->io_class, priority->level);
	if (syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, THIS_THREAD,
		    IOPRIO_PRIO_VALUE((int)priority->io_class, (int)priority->level)) < 0)
		return dms_error_create_os(errno, "setting the I/O priority");
	return NULL;
}
