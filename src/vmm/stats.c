/* The accelerator's own counters: binary statistics descriptors, by name. */
#include "vmm/stats.h"

#include <string.h>
#include <unistd.h>

#define IMAGE_MAX  (1u << 20) /* a descriptor that shows more is not believed */
#define VALUES_MAX 64u	      /* of a histogram */

struct stat {
	char *name;
	u64 value;
	bool sum; /* over the vCPUs; else the largest */
};

static void stat_free(void *p)
{
	struct stat *s = p;

	g_free(s->name);
	g_free(s);
}

static void stat_add(GPtrArray *all, const char *name, u64 value, bool sum)
{
	struct stat *s;

	for (unsigned i = 0; i < all->len; i++) {
		s = g_ptr_array_index(all, i);
		if (!strcmp(s->name, name)) {
			s->value = s->sum ? s->value + value : MAX(s->value, value);
			return;
		}
	}
	s = g_new0(struct stat, 1);
	s->name = g_strdup(name);
	s->value = value;
	s->sum = sum;
	g_ptr_array_add(all, s);
}

/* Everything that the descriptor shows, or NULL. */
static GByteArray *image_read(const struct accel *accel, int fd)
{
	GByteArray *image = g_byte_array_new();
	guint8 part[4096];
	ssize_t n;

	while ((n = accel->ops->pread(fd, part, sizeof(part), image->len)) > 0 &&
	       image->len < IMAGE_MAX)
		g_byte_array_append(image, part, (guint)n);
	if (n < 0 || image->len < sizeof(struct kvm_stats_header)) {
		g_byte_array_free(image, TRUE);
		return NULL;
	}
	return image;
}

static void image_parse(const GByteArray *image, GPtrArray *all)
{
	struct kvm_stats_header h;
	size_t step;

	memcpy(&h, image->data, sizeof(h));
	step = sizeof(struct kvm_stats_desc) + h.name_size;
	if (!h.name_size || h.name_size > 4096 || h.num_desc > IMAGE_MAX / step)
		return;
	for (u32 i = 0; i < h.num_desc; i++) {
		struct kvm_stats_desc d;
		size_t at = h.desc_offset + i * step, data;
		g_autofree char *name = NULL;
		u64 value = 0;

		if (at + step > image->len)
			return;
		memcpy(&d, image->data + at, sizeof(d));
		name = g_strndup((char *)image->data + at + sizeof(d), h.name_size);
		data = (size_t)h.data_offset + d.offset;
		for (u32 k = 0; k < MIN(d.size, VALUES_MAX) && data + 8 * (k + 1) <= image->len;
		     k++) {
			u64 v;

			memcpy(&v, image->data + data + 8 * k, sizeof(v));
			value += v;
		}
		stat_add(all, name, value,
			 (d.flags & KVM_STATS_TYPE_MASK) == KVM_STATS_TYPE_CUMULATIVE);
	}
}

static void collect(const struct accel *accel, int fd, GPtrArray *all)
{
	int stats = accel_ioctl_value(accel, fd, KVM_GET_STATS_FD, 0);
	GByteArray *image;

	if (stats < 0)
		return;
	image = image_read(accel, stats);
	if (image) {
		image_parse(image, all);
		g_byte_array_free(image, TRUE);
	}
	accel->ops->close(stats);
}

char *stats_text(const struct vcpu_set *set)
{
	g_autoptr(GPtrArray) all = g_ptr_array_new_with_free_func(stat_free);
	GString *s = g_string_new(NULL);

	collect(set->accel, set->vm_fd, all);
	for (unsigned i = 0; i < set->count; i++)
		collect(set->accel, set->vcpus[i].fd, all);
	for (unsigned i = 0; i < all->len; i++) {
		const struct stat *one = g_ptr_array_index(all, i);

		if (one->value)
			g_string_append_printf(s, "%16" G_GUINT64_FORMAT " %s\n", one->value,
					       one->name);
	}
	if (s->len)
		g_string_prepend(s, "counters of the accelerator, all vCPUs:\n");
	return g_string_free(s, FALSE);
}
