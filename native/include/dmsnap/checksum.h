/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DMSNAP_CHECKSUM_H
#define DMSNAP_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* CRC-32C as the kernel's crc32c(): no inversion before or after. */
uint32_t dms_crc32c(uint32_t crc, const void *data, size_t length);
/* dm_bm_checksum() of drivers/md/persistent-data: crc32c(~0, …) ^ init_xor. */
uint32_t dms_bm_checksum(const void *data, size_t length, uint32_t init_xor);

#endif
