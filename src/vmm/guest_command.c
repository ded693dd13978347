/* The cpio archive that carries a command into the guest. */
#include "vmm/guest_command.h"

#include <stdio.h>
#include <string.h>

#include "vmm/debug_port.h"

#define MODE_FOLDER  0040755
#define MODE_PROGRAM 0100755

/*
 * /anykvm/exit as an ELF file of our own making, so that it runs in any x86-64 guest, with or
 * without a C library, /dev/port or busybox. In words:
 *
 *	n = decimal number in argv[1] (0 if there is none)
 *	ioctl(1, TCSBRK, 1)      waits until the console has sent everything
 *	ioperm(0x5f4, 1, 1)
 *	outb(n, 0x5f4)           the VM ends here
 *	exit(n)
 */
static const u8 exit_code[] = {
	0x31, 0xdb,		      /*     xor  ebx, ebx            */
	0x48, 0x83, 0x3c, 0x24, 0x02, /*     cmp  qword [rsp], 2      */
	0x72, 0x1b,		      /*     jb   2f                  */
	0x48, 0x8b, 0x74, 0x24, 0x10, /*     mov  rsi, [rsp+16]       */
	0x0f, 0xb6, 0x06,	      /* 1:  movzx eax, byte [rsi]    */
	0x83, 0xe8, 0x30,	      /*     sub  eax, '0'            */
	0x83, 0xf8, 0x09,	      /*     cmp  eax, 9              */
	0x77, 0x0b,		      /*     ja   2f                  */
	0x48, 0xff, 0xc6,	      /*     inc  rsi                 */
	0x6b, 0xdb, 0x0a,	      /*     imul ebx, ebx, 10        */
	0x01, 0xc3,		      /*     add  ebx, eax            */
	0xeb, 0xeb,		      /*     jmp  1b                  */
	0x90,			      /*     nop                      */
	0xb8, 0x10, 0x00, 0x00, 0x00, /* 2:  mov  eax, 16 (ioctl)     */
	0xbf, 0x01, 0x00, 0x00, 0x00, /*     mov  edi, 1              */
	0xbe, 0x09, 0x54, 0x00, 0x00, /*     mov  esi, TCSBRK         */
	0xba, 0x01, 0x00, 0x00, 0x00, /*     mov  edx, 1              */
	0x0f, 0x05,		      /*     syscall                  */
	0xb8, 0xad, 0x00, 0x00, 0x00, /*     mov  eax, 173 (ioperm)   */
	0xbf, 0xf4, 0x05, 0x00, 0x00, /*     mov  edi, 0x5f4          */
	0xbe, 0x01, 0x00, 0x00, 0x00, /*     mov  esi, 1              */
	0xba, 0x01, 0x00, 0x00, 0x00, /*     mov  edx, 1              */
	0x0f, 0x05,		      /*     syscall                  */
	0x66, 0xba, 0xf4, 0x05,	      /*     mov  dx, 0x5f4           */
	0x88, 0xd8,		      /*     mov  al, bl              */
	0xee,			      /*     out  dx, al              */
	0xb8, 0x3c, 0x00, 0x00, 0x00, /*     mov  eax, 60 (exit)      */
	0x89, 0xdf,		      /*     mov  edi, ebx            */
	0x0f, 0x05,		      /*     syscall                  */
};

/* Where the two port numbers are. */
#define EXIT_CODE_IOPERM_PORT 0x40
#define EXIT_CODE_OUT_PORT    0x52

struct exit_program {
	u8 ident[16];
	u16 type, machine;
	u32 version;
	u64 entry, phoff, shoff;
	u32 flags;
	u16 ehsize, phentsize, phnum, shentsize, shnum, shstrndx;
	struct {
		u32 type, flags;
		u64 offset, vaddr, paddr, filesz, memsz, align;
	} load;
	u8 code[sizeof(exit_code)];
} __attribute__((packed));

#define EXIT_BASE 0x400000

void cpio_append(GByteArray *out, const char *name, u32 mode, const void *data, u32 size)
{
	static const u8 zeros[4];
	u32 name_size = (u32)strlen(name) + 1;
	char head[111];

	snprintf(head, sizeof(head), "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		 0u, mode, 0u, 0u, 1u, 0u, size, 0u, 0u, 0u, 0u, name_size, 0u);
	g_byte_array_append(out, (const u8 *)head, 110);
	g_byte_array_append(out, (const u8 *)name, name_size);
	g_byte_array_append(out, zeros, -(110 + name_size) & 3);
	if (size)
		g_byte_array_append(out, data, size);
	g_byte_array_append(out, zeros, -size & 3);
}

/* A program that writes its argument (0 without one) to a port, as above. */
static void append_port_program(GByteArray *out, const char *name, u16 port)
{
	struct exit_program p = {
		.ident = {0x7f, 'E', 'L', 'F', 2, 1, 1},
		.type = 2,
		.machine = 62,
		.version = 1,
		.entry = EXIT_BASE + offsetof(struct exit_program, code),
		.phoff = offsetof(struct exit_program, load),
		.ehsize = 64,
		.phentsize = 56,
		.phnum = 1,
		.load = {1, 5, 0, EXIT_BASE, EXIT_BASE, sizeof(p), sizeof(p), 0x1000},
	};

	memcpy(p.code, exit_code, sizeof(exit_code));
	memcpy(p.code + EXIT_CODE_IOPERM_PORT, &port, sizeof(port));
	memcpy(p.code + EXIT_CODE_OUT_PORT, &port, sizeof(port));
	cpio_append(out, name, MODE_PROGRAM, &p, sizeof(p));
}

void guest_command_archive(GByteArray *out, char **command, bool tty_in, bool tty)
{
	GString *script =
		g_string_new("#!/bin/sh\n"
			     "# Made by anykvm run; ends the VM with the command's status.\n"
			     "stty crtscts 2>/dev/null\n");

	if (!tty)
		g_string_append(script, "stty -onlcr 2>/dev/null\n");
	if (!tty_in)
		g_string_append(script, "stty -echo -icrnl -ixon -isig 2>/dev/null\n"
					"/anykvm/ready\n");
	for (unsigned i = 0; command[i]; i++) {
		g_autofree char *quoted = g_shell_quote(command[i]);

		g_string_append_printf(script, "%s%s", i ? " " : "", quoted);
	}
	g_string_append(script, "\nexec /anykvm/exit $?\n");
	cpio_append(out, "anykvm", MODE_FOLDER, NULL, 0);
	cpio_append(out, "anykvm/cmd", MODE_PROGRAM, script->str, (u32)script->len);
	append_port_program(out, "anykvm/exit", DEBUG_PORT_EXIT);
	append_port_program(out, "anykvm/ready", DEBUG_PORT_READY);
	cpio_append(out, "TRAILER!!!", 0, NULL, 0);
	g_string_free(script, TRUE);
}
