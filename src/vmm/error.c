/* The error domain of the VMM. */
#include "vmm/error.h"

GQuark vmm_error_quark(void)
{
	return g_quark_from_static_string("anykvm-vmm");
}
