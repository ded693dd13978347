/* From the entry code to test_main(): console, command line, this CPU. */
#include "apic.h"
#include "cpu.h"

#define EXIT_PORT 0x5f4 /* anykvm's; QEMU's isa-debug-exit is put there too */
#define COM1	  0x3f8

extern u32 boot_magic, boot_info;
extern u8 cpu_blocks[CPUS_MAX][CPU_BLOCK];
void cpu_start(void);

void arch_puts(const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		while (!(inb(COM1 + 5) & 0x20))
			pause();
		outb(COM1, (u8)text[i]);
	}
}

void arch_exit(unsigned status)
{
	struct table_reg none = {0, 0};

	outb(EXIT_PORT, (u8)status);
	/* A machine without that port: a triple fault. */
	cli();
	lidt(&none);
	__asm__ volatile("int3");
	for (;;)
		hlt();
}

/* QEMU's small firmware passes none on, but QEMU itself tells. */
static void command_line_fw_cfg(void)
{
	static const char signature[] = "QEMU";
	u32 len = 0;

	outw(0x510, 0);
	for (unsigned i = 0; i < 4; i++)
		if (inb(0x511) != (u8)signature[i])
			return;
	outw(0x510, 0x14);
	for (unsigned i = 0; i < 4; i++)
		len |= (u32)inb(0x511) << (8 * i);
	outw(0x510, 0x15);
	for (u32 i = 0; i < len && i + 1 < sizeof(cmdline); i++)
		cmdline[i] = (char)inb(0x511);
}

static void command_line(void)
{
	const char *from = NULL;

	if (boot_magic == 0x2badb002) { /* multiboot: flag 2, pointer at 16 */
		const u32 *info = (u32 *)(ulong)boot_info;

		if (info[0] & 4)
			from = (const char *)(ulong)info[4];
	} else if (boot_info && *(u32 *)(ulong)boot_info == 0x336ec578) { /* PVH */
		from = (const char *)(ulong)((u32 *)(ulong)boot_info)[6];
	}
	for (unsigned i = 0; from && from[i] && i + 1 < sizeof(cmdline); i++)
		cmdline[i] = from[i];
	if (!cmdline[0])
		command_line_fw_cfg();
}

void cpu_start(void)
{
	command_line();
	outb(COM1 + 1, 0);
	outb(COM1 + 3, 3);
	trap_init();
	cpu_init((struct cpu *)cpu_blocks[0], 0);
	pic_disable();
	apic_init();
	this_cpu()->apic_id = apic_id();
	test_main();
	report_done();
}
