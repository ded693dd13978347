/* perfmap.c - see perfmap.h */
#include "jit/perfmap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
#include "jit/jit_internal.h"

int jit_perfmap_open(struct cpu *cpu)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/tmp/perf-%d.map", (int)getpid());
	fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	cpu->jit->perfmap = fd + 1;
	return 0;
}

void jit_perfmap_close(struct cpu *cpu)
{
	if (cpu->jit && cpu->jit->perfmap)
		close(cpu->jit->perfmap - 1);
}

void jit_perfmap_add(const struct cpu *cpu, const struct jit_block *b)
{
	char line[96];
	int n = snprintf(line, sizeof(line), "%llx %x guest:%llx:%s\n",
			 (unsigned long long)jit_exec(cpu->jit, b->code), b->host_len,
			 (unsigned long long)cpu->rip,
			 (b->mode & MODE_CPL) == MODE_CPL ? "user" : "kernel");

	/* One write a line, appended: vCPUs share the file. A full disk loses names only. */
	if (write(cpu->jit->perfmap - 1, line, (size_t)n) != n)
		return;
}
