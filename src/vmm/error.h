/*
 * Errors of the VMM's own work travel as a GError whose message is the one line the user reads:
 * what was wrong, where, and what to do. Set-up functions return false and set it.
 */
#ifndef VMM_ERROR_H
#define VMM_ERROR_H

#include "vmm/types.h"

enum vmm_error_code {
	VMM_ERROR_SETUP = 1, /* the run could not start */
	VMM_ERROR_USAGE = 2, /* the command line is wrong */
};

GQuark vmm_error_quark(void);

#define vmm_error(error, ...) g_set_error((error), vmm_error_quark(), VMM_ERROR_SETUP, __VA_ARGS__)
#define vmm_error_usage(error, ...) \
	g_set_error((error), vmm_error_quark(), VMM_ERROR_USAGE, __VA_ARGS__)

#endif
