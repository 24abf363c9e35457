/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DMSNAP_LABEL_CODEC_H
#define DMSNAP_LABEL_CODEC_H

#include <stdint.h>

#include <dmsnap/label.h>

/* The version that it takes to say what a label says. */
uint32_t dms_label_version(const struct dms_label *label);

#endif
