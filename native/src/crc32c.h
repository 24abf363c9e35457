/* SPDX-License-Identifier: Apache-2.0 */
/* The fallback of dms_crc32c(), by name, so that tests reach it on every processor. */
#ifndef DMSNAP_SRC_CRC32C_H
#define DMSNAP_SRC_CRC32C_H

#include <stddef.h>
#include <stdint.h>

uint32_t dms_crc32c_portable(uint32_t crc, const void *data, size_t length);

#endif
