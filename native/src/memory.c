// SPDX-License-Identifier: Apache-2.0
#include <malloc.h>

#include <dmsnap/memory.h>

/* A mapping costs some microseconds, and none of this size is made in a loop. */
#define LARGE_BYTES (1 << 20)

void dms_memory_give_back(void)
{
	/* Set once, glibc does not raise it any more (malloc/malloc.c, do_set_mmap_threshold). */
	mallopt(M_MMAP_THRESHOLD, LARGE_BYTES);
}
