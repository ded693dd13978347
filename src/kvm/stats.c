/*
 * KVM_GET_STATS_FD: a descriptor that reads as header, id, descriptors, values. The image is made
 * anew for every read, so that the values are of this moment. Behind a vCPU's own rows come the
 * counters of the layers below.
 */
#include "jit/stats.h"
#include "kvm/fd.h"
#include "kvm/ioctl.h"
#include "kvm/pages.h"
#include "kvm/user.h"
#include "mmu/stats.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef KVM_STATS_UNIT_BOOLEAN
#define KVM_STATS_UNIT_BOOLEAN (0x4 << KVM_STATS_UNIT_SHIFT)
#endif

#define ID_BYTES   48u /* room for a name, as in the kernel */
#define DESC_BYTES (sizeof(struct kvm_stats_desc) + ID_BYTES)

struct stat_row {
	const char *name;
	u32 at; /* of the value in its structure */
	u32 flags;
	s16 exponent; /* of the unit: 10 to this power */
};

#define UNIT_NONE	 KVM_STATS_UNIT_NONE, 0
#define UNIT_BOOLEAN	 KVM_STATS_UNIT_BOOLEAN, 0
#define UNIT_NANOSECONDS KVM_STATS_UNIT_SECONDS, -9

#define ROW_OF(name, at, kind, unit, exponent) {name, at, (kind) | (unit), exponent},
#define ROW_UNIT(name, at, kind, ...)	       ROW_OF(name, at, kind, __VA_ARGS__)
#define ROW(name, type, field, kind, unit)                                                         \
	ROW_UNIT(name, offsetof(struct type, field), KVM_STATS_TYPE_##kind | KVM_STATS_BASE_POW10, \
		 UNIT_##unit)

static const struct stat_row vm_rows[] = {
#define STAT_VM(name, field, kind, unit) ROW(name, vm_stats, field, kind, unit)
#include "kvm/stats.def"
};

static const struct stat_row vcpu_rows[] = {
#define STAT_VCPU(name, field, kind, unit) ROW(name, vcpu_stats, field, kind, unit)
#include "kvm/stats.def"
};

struct stats_file {
	struct vm *vm;
	struct vcpu *vcpu; /* NULL: the VM's */
};

static const struct stat_set *const sets[] = {&mmu_stats, &jit_stats, &jit_insn_stats};

/* Where the next statistic goes. */
struct image {
	struct kvm_stats_desc *desc;
	u64 *value;
	u32 index;
};

static void image_add(struct image *im, u32 flags, s16 exponent, const char *prefix,
		      const char *name, u64 value)
{
	struct kvm_stats_desc *d =
		(struct kvm_stats_desc *)((u8 *)im->desc + im->index * DESC_BYTES);

	d->flags = flags;
	d->exponent = exponent;
	d->size = 1;
	d->offset = im->index * (u32)sizeof(u64);
	snprintf((char *)(d + 1), ID_BYTES, "%s%s", prefix, name);
	im->value[im->index++] = value;
}

static u32 set_rows(const struct stats_file *f)
{
	u32 count = 0;

	for (unsigned k = 0; f->vcpu && k < ARRAY_SIZE(sets); k++)
		count += sets[k]->count;
	return count;
}

static size_t image_make(const struct stats_file *f, u8 **out)
{
	struct vm_stats vm_stats;
	const struct stat_row *rows = f->vcpu ? vcpu_rows : vm_rows;
	u32 own = f->vcpu ? ARRAY_SIZE(vcpu_rows) : ARRAY_SIZE(vm_rows), count = own + set_rows(f);
	const u8 *values = f->vcpu ? (const u8 *)&f->vcpu->stats : (const u8 *)&vm_stats;
	size_t desc = sizeof(struct kvm_stats_header) + ID_BYTES;
	size_t data = desc + count * DESC_BYTES, size = data + count * sizeof(u64);
	u8 *p = calloc(1, size);
	struct kvm_stats_header *h = (struct kvm_stats_header *)p;
	struct image im = {(struct kvm_stats_desc *)(p + desc), (u64 *)(p + data), 0};

	if (!p)
		return 0;
	if (!f->vcpu)
		pages_stats(f->vm, &vm_stats);
	h->name_size = ID_BYTES;
	h->num_desc = count;
	h->id_offset = sizeof(*h);
	h->desc_offset = (u32)desc;
	h->data_offset = (u32)data;
	if (f->vcpu)
		snprintf((char *)p + sizeof(*h), ID_BYTES, "kvm-%p/vcpu-%u", (void *)f->vm,
			 f->vcpu->id);
	else
		snprintf((char *)p + sizeof(*h), ID_BYTES, "kvm-%p", (void *)f->vm);
	for (u32 i = 0; i < own; i++)
		image_add(&im, rows[i].flags, rows[i].exponent, "", rows[i].name,
			  stat_read((const u64 *)(values + rows[i].at)));
	for (unsigned k = 0; f->vcpu && k < ARRAY_SIZE(sets); k++)
		for (unsigned i = 0; i < sets[k]->count; i++)
			image_add(&im, KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_UNIT_NONE, 0,
				  sets[k]->prefix, sets[k]->name(i),
				  sets[k]->value(&f->vcpu->cpu, i));
	*out = p;
	return size;
}

static long stats_read(struct fd_file *file, void *buf, size_t size, u64 offset)
{
	u8 *image;
	size_t total = image_make(file->object, &image), n;
	int ret;

	if (!total)
		return -ENOMEM;
	n = offset < total ? MIN(size, total - offset) : 0;
	ret = user_copy_out((u64)buf, image + offset, n);
	free(image);
	return ret ? ret : (long)n;
}

static void stats_release(struct fd_file *file)
{
	struct stats_file *f = file->object;

	vm_put(f->vm);
	free(f);
}

static long stats_ioctl(struct fd_file *file, u32 req, unsigned long arg)
{
	return -ENOTTY;
}

static const struct fd_ops fd_stats_ops = {
	.kind = ANYKVM_STATS,
	.ioctl = stats_ioctl,
	.read = stats_read,
	.release = stats_release,
};

static int stats_open(struct vm *vm, struct vcpu *vcpu)
{
	struct stats_file *f = calloc(1, sizeof(*f));
	int ret;

	if (!f)
		return -ENOMEM;
	f->vm = vm;
	f->vcpu = vcpu;
	vm_get(vm);
	ret = fd_create(&fd_stats_ops, f);
	if (ret < 0) {
		vm_put(vm);
		free(f);
	}
	return ret;
}

int vm_get_stats_fd(struct vm *vm, void *data, unsigned long arg)
{
	return stats_open(vm, NULL);
}

int vcpu_get_stats_fd(struct vcpu *vcpu, void *data, unsigned long arg)
{
	return stats_open(vcpu->vm, vcpu);
}
