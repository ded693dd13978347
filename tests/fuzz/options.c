/* The command line of `anykvm run`: words separated by newlines. */
#include "input.h"

#include "vmm/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = g_strndup((const char *)data, size), **words = g_strsplit(text, "\n", 40);
	struct run_config *cfg;
	GPtrArray *argv = g_ptr_array_new();
	GError *error = NULL;
	bool help;

	g_ptr_array_add(argv, (char *)"run");
	for (unsigned i = 0; words[i]; i++)
		g_ptr_array_add(argv, words[i]);
	g_ptr_array_add(argv, NULL);
	cfg = config_parse((int)argv->len - 1, (char **)argv->pdata, &help, &error);
	if (!cfg && !help && !error)
		__builtin_trap(); /* refused without a word */
	g_clear_error(&error);
	config_free(cfg);
	g_ptr_array_unref(argv);
	g_strfreev(words);
	g_free(text);
	return 0;
}
