/* encode.c - the prefix and opcode bytes of an instruction */
#include "encode.h"
#include "insn.h"

unsigned encode_prefix(const struct encode *e, u8 *p)
{
	static const u8 mandatory[6][2] = {{0}, {0x66}, {0xf3}, {0xf2}, {0x66, 0xf3}, {0x66, 0xf2}};
	unsigned n = 0;

	switch (e->enc) {
	case ENC_LEGACY: {
		u8 rex = 0x40 | e->w << 3 | e->r << 2 | e->x << 1 | e->bb;

		for (unsigned i = 0; i < 2; i++)
			if (mandatory[e->pp][i])
				p[n++] = mandatory[e->pp][i];
		if ((rex != 0x40 || e->rex) && !e->no_rex)
			p[n++] = rex;
		if (e->map)
			p[n++] = 0x0f;
		if (e->map > 1)
			p[n++] = e->map == 2 ? 0x38 : 0x3a;
		break;
	}
	case ENC_VEX:
		if (e->map == 1 && !e->w && !e->x && !e->bb && !e->vex3) {
			p[n++] = 0xc5;
			p[n++] = !e->r << 7 | (~e->vvvv & 15) << 3 | (e->ll & 1) << 2 | e->pp;
		} else {
			p[n++] = 0xc4;
			p[n++] = !e->r << 7 | !e->x << 6 | !e->bb << 5 | e->map;
			p[n++] = e->w << 7 | (~e->vvvv & 15) << 3 | (e->ll & 1) << 2 | e->pp;
		}
		break;
	case ENC_EVEX:
		p[n++] = 0x62;
		p[n++] = !e->r << 7 | !e->x << 6 | !e->bb << 5 | !e->r2 << 4 | e->map;
		p[n++] = e->w << 7 | (~e->vvvv & 15) << 3 | 4 | e->pp;
		p[n++] = e->z << 7 | e->ll << 5 | e->b << 4 | !(e->vvvv >> 4) << 3 | e->aaa;
		break;
	}
	p[n++] = e->opcode;
	return n;
}
