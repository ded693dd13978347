/* Choosing and opening an accelerator, and the -errno form of its calls. */
#include "vmm/accel.h"

#include <errno.h>
#include <glib.h>
#include <string.h>

static int accel_try(struct accel *accel, const struct accel_ops *ops, const char *options,
		     char **error)
{
	int version, fd = ops->open(options);

	if (fd < 0) {
		*error = g_strdup_printf("cannot open the accelerator '%s': %s%s", ops->name,
					 g_strerror(-fd),
					 strcmp(ops->name, "kvm") ? ""
								  : " (/dev/kvm; --accel anykvm "
								    "does not need it)");
		return fd;
	}
	accel->ops = ops;
	accel->fd = fd;
	version = accel_ioctl_value(accel, fd, KVM_GET_API_VERSION, 0);
	if (version == KVM_API_VERSION)
		return 0;
	*error = g_strdup_printf("the accelerator '%s' speaks KVM API version %d, not %d",
				 ops->name, version, KVM_API_VERSION);
	accel_close(accel);
	return -EPROTO;
}

int accel_open(struct accel *accel, const char *name, const char *options, char **error)
{
	accel->ops = NULL;
	accel->fd = -1;
	if (!strcmp(name, "anykvm"))
		return accel_try(accel, &accel_anykvm_ops, options, error);
	if (!strcmp(name, "kvm"))
		return accel_try(accel, &accel_kvm_ops, options, error);
	if (!strcmp(name, "auto")) {
		if (!accel_try(accel, &accel_kvm_ops, NULL, error))
			return 0;
		g_clear_pointer(error, g_free);
		return accel_try(accel, &accel_anykvm_ops, options, error);
	}
	*error = g_strdup_printf("unknown accelerator '%s' (anykvm, kvm or auto)", name);
	return -EINVAL;
}

void accel_close(struct accel *accel)
{
	if (accel->fd >= 0)
		accel->ops->close(accel->fd);
	accel->fd = -1;
}

int accel_ioctl_value(const struct accel *accel, int fd, unsigned long req, unsigned long arg)
{
	int r = accel->ops->ioctl(fd, req, arg);

	return r < 0 ? -errno : r;
}

int accel_ioctl(const struct accel *accel, int fd, unsigned long req, const void *arg)
{
	return accel_ioctl_value(accel, fd, req, (unsigned long)arg);
}

int accel_extension(const struct accel *accel, int fd, int cap)
{
	int r = accel_ioctl_value(accel, fd, KVM_CHECK_EXTENSION, (unsigned long)cap);

	return r > 0 ? r : 0;
}
