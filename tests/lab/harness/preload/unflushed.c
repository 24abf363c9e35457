// SPDX-License-Identifier: Apache-2.0
/*
 * A guest's disk is a file of the host, and the plug that is pulled is the guest's:
 * what its kernel has given to the disk lies in the host's page cache, where the next
 * boot finds it. So a flush has nothing to do but wait for the host's own disk.
 */
int fsync(int fd);
int fdatasync(int fd);

int fsync(int fd)
{
	(void)fd;
	return 0;
}

int fdatasync(int fd)
{
	(void)fd;
	return 0;
}
