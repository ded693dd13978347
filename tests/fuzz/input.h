/* Fuzz input taken piece by piece; what is missing at its end reads as zeros. */
#ifndef FUZZ_INPUT_H
#define FUZZ_INPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct input {
	const uint8_t *data;
	size_t left;
};

static inline bool input_more(const struct input *in)
{
	return in->left != 0;
}

static inline void input_bytes(struct input *in, void *buf, size_t len)
{
	size_t n = len < in->left ? len : in->left;

	memset(buf, 0, len);
	memcpy(buf, in->data, n);
	in->data += n;
	in->left -= n;
}

static inline uint64_t input_number(struct input *in, unsigned bytes)
{
	uint64_t v = 0;

	input_bytes(in, &v, bytes);
	return v;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
