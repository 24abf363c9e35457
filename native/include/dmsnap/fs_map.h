/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a mounted file system does not use of its device. Both calls may say
 * too little and never too much: what is not certainly free counts as used.
 * They say what is free while they run; what is done with that must know what
 * was written since. fd is any file or directory of the file system.
 */
#ifndef DMSNAP_FS_MAP_H
#define DMSNAP_FS_MAP_H

#include <stdint.h>

#include <dmsnap/error.h>
#include <dmsnap/extent_set.h>

/* cffi: begin */
/*
 * By FS_IOC_GETFSMAP, of ext4 and XFS, on the data device alone.
 * DMS_ERR_UNSUPPORTED when the file system or the kernel cannot say.
 */
struct dms_error *dms_fs_map_unused(int fd, uint64_t size_bytes, struct dms_extent_set **unused);

/*
 * By btrfs's chunk and extent trees. DMS_ERR_UNSUPPORTED for more than one
 * device, for profiles other than single and DUP, and for features that are
 * not known to leave those trees as they are.
 */
struct dms_error *dms_btrfs_map_unused(int fd, uint64_t size_bytes,
				       struct dms_extent_set **unused);
/* cffi: end */

#endif
