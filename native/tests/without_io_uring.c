// SPDX-License-Identifier: Apache-2.0
/*
 * Linked with --wrap=io_uring_queue_init, a kernel without io_uring: for valgrind, which does not
 * see what a ring reads into memory, and the fuzzers, for which rings are dear.
 */
#include <errno.h>
#include <liburing.h>

int __wrap_io_uring_queue_init(unsigned int entries, struct io_uring *ring, unsigned int flags);

int __wrap_io_uring_queue_init(unsigned int entries, struct io_uring *ring, unsigned int flags)
{
	(void)entries;
	(void)ring;
	(void)flags;
	return -ENOSYS;
}
