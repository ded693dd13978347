/*
 * The EFI target: a folder that QEMU shows to the firmware as a disk, with the test as the program
 * that EFI starts from removable media. Its command line is written into the program's header.
 */
#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>

#include "vmm/cmd_test.h"
#include "vmm/error.h"

/* tests/guest/lib/efi/header.S */
#define COMMAND_LINE 0x200
#define COMMAND_ROOM 0x200
#define MARK	     "anykvm arguments"

bool test_efi_prepare(struct test_job *job, const char *folder, const char *words, GError **error)
{
	g_autofree char *boot = g_build_filename(folder, "EFI", "BOOT", NULL);
	g_autofree char *path = g_build_filename(boot, "BOOTX64.EFI", NULL), *image = NULL;
	gsize size;

	if (!g_file_get_contents(job->kernel, &image, &size, error))
		return false;
	if (size < COMMAND_LINE + COMMAND_ROOM ||
	    memcmp(image + COMMAND_LINE - strlen(MARK), MARK, strlen(MARK)) != 0)
		return vmm_error(error, "'%s' is no guest test for EFI", job->kernel), false;
	if (strlen(words) >= COMMAND_ROOM)
		return vmm_error(error, "more than %u bytes of arguments for a test",
				 COMMAND_ROOM - 1),
		       false;
	memset(image + COMMAND_LINE, 0, COMMAND_ROOM);
	memcpy(image + COMMAND_LINE, words, strlen(words));
	if (g_mkdir_with_parents(boot, 0755))
		return vmm_error(error,
				 "cannot make the folder '%s': %s; --logs names another folder",
				 boot, g_strerror(errno)),
		       false;
	g_free(job->esp);
	job->esp = g_strdup(folder);
	return g_file_set_contents(path, image, (gssize)size, error);
}
