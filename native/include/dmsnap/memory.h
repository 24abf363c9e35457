/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the process keeps large memory. By default glibc takes what was freed
 * for the size of what comes next, and keeps as much in the heap of every
 * thread that ever had it: an audit would leave the buffers of both its readers.
 */
#ifndef DMSNAP_MEMORY_H
#define DMSNAP_MEMORY_H

/* cffi: begin */
/* From now on all that is large goes back to the system when it is freed. For a whole process. */
void dms_memory_give_back(void);
/* cffi: end */

#endif
