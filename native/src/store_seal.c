// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include <dmsnap/checksum.h>

#include "cleanup.h"
#include "le_cursor.h"
#include "store_seal.h"

#define WHAT "exception store seal"
#define CRC_OFFSET 8u
#define VERSION 1u
#define VERSION_OFFSET 12u
#define COUNT_OFFSET 16u
#define PAIRS_OFFSET 24u
#define DATA_OFFSET (PAIRS_OFFSET + DMS_DIGEST_BYTES)
#define END (DATA_OFFSET + DMS_DIGEST_BYTES)
#define CRC_SALT 0x53554e53u /* so that no other sector of dmsnap's passes for one */

static const uint8_t magic[] = { 'D', 'M', 'S', 'N', 'A', 'P', 'U', 'S' };

static void put_le(uint8_t *bytes, uint64_t value, unsigned int count)
{
	for (unsigned int i = 0; i < count; i++)
		bytes[i] = (uint8_t)(value >> 8 * i);
}

/* Of the sector with the checksum's own bytes as zero. */
static uint32_t checksum(const uint8_t *bytes)
{
	uint8_t sector[DMS_STORE_SEAL_BYTES];

	memcpy(sector, bytes, sizeof(sector));
	put_le(sector + CRC_OFFSET, 0, 4);
	return dms_bm_checksum(sector, sizeof(sector), CRC_SALT);
}

void dms_store_seal_pack(const struct dms_store_seal *seal, uint8_t *bytes)
{
	memset(bytes, 0, DMS_STORE_SEAL_BYTES);
	memcpy(bytes, magic, sizeof(magic));
	put_le(bytes + VERSION_OFFSET, VERSION, 4);
	put_le(bytes + COUNT_OFFSET, seal->nr_exceptions, 8);
	memcpy(bytes + PAIRS_OFFSET, seal->pairs, DMS_DIGEST_BYTES);
	memcpy(bytes + DATA_OFFSET, seal->data, DMS_DIGEST_BYTES);
	put_le(bytes + CRC_OFFSET, checksum(bytes), 4);
}

static bool is_zero(const uint8_t *bytes, size_t from)
{
	for (; from < DMS_STORE_SEAL_BYTES; from++)
		if (bytes[from])
			return false;
	return true;
}

struct dms_error *dms_store_seal_parse(const uint8_t *bytes, uint64_t offset_bytes,
				       struct dms_store_seal *seal, bool *known)
{
	struct dms_le_cursor cursor =
		dms_le_cursor(WHAT, bytes + CRC_OFFSET, END - CRC_OFFSET, offset_bytes + CRC_OFFSET);
	uint32_t crc, version;

	*known = !is_zero(bytes, 0);
	if (!*known)
		return NULL;
	DMS_TRY(dms_le_cursor_u32(&cursor, "crc", &crc));
	DMS_TRY(dms_le_cursor_u32(&cursor, "version", &version));
	DMS_TRY(dms_le_cursor_u64(&cursor, "nr_exceptions", &seal->nr_exceptions));
	if (memcmp(bytes, magic, sizeof(magic)) || crc != checksum(bytes))
		return dms_error_create_at(DMS_ERR_CHECKSUM, offset_bytes,
					   WHAT ": checksum %08x, its bytes have %08x", crc,
					   checksum(bytes));
	if (version != VERSION || !is_zero(bytes, END))
		return dms_error_create_at(DMS_ERR_UNSUPPORTED, offset_bytes,
					   WHAT ": version %u, known is %u", version, VERSION);
	memcpy(seal->pairs, bytes + PAIRS_OFFSET, DMS_DIGEST_BYTES);
	memcpy(seal->data, bytes + DATA_OFFSET, DMS_DIGEST_BYTES);
	return NULL;
}
