/* SPDX-License-Identifier: Apache-2.0 */
/* Strings from a disk are shown to people: what a terminal would obey must not be among them. */
#ifndef DMSNAP_SRC_TEXT_H
#define DMSNAP_SRC_TEXT_H

#include <stdbool.h>

/* Well-formed UTF-8 without control characters. */
bool dms_text_is_printable(const char *text);

#endif
