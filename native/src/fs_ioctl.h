/* SPDX-License-Identifier: Apache-2.0 */
/* The ioctls that ask a file system for its map, by way of the tests' own kernel where there is one. */
#ifndef DMSNAP_SRC_FS_IOCTL_H
#define DMSNAP_SRC_FS_IOCTL_H

#include <errno.h>
#include <stdbool.h>
#include <sys/ioctl.h>

/* Only tests define this: 0 or a negative errno. */
int dms_fs_inject(int fd, unsigned long request, void *argument)
	__attribute__((weak, visibility("hidden")));

/* 0 or an errno. */
static inline int dms_fs_ioctl(int fd, unsigned long request, void *argument)
{
	if (dms_fs_inject)
		return -dms_fs_inject(fd, request, argument);
	return ioctl(fd, request, argument) < 0 ? errno : 0;
}

static inline bool dms_fs_is_unsupported(int errnum)
{
	return errnum == ENOTTY || errnum == EOPNOTSUPP || errnum == EINVAL;
}

#endif
