/* Options of `anykvm run`: what they accept, and what they refuse with which words. */
#include "fake.h"

#include "vmm/config.h"

static struct run_config *parse(GError **error, bool *help, const char *line)
{
	char **argv = g_strsplit(line, " ", -1);
	struct run_config *cfg = config_parse((int)g_strv_length(argv), argv, help, error);

	g_strfreev(argv);
	return cfg;
}

static void refused(const char *line, const char *word)
{
	GError *error = NULL;
	bool help;

	assert_null(parse(&error, &help, line));
	assert_false(help);
	assert_non_null(error);
	assert_non_null(strstr(error->message, word));
	assert_null(strchr(error->message, '\n'));
	g_error_free(error);
}

static void sizes(void **state)
{
	static const struct {
		const char *text;
		u64 bytes;
	} good[] = {{"64", 64ull << 20}, {"512M", 512ull << 20}, {"4G", 4ull << 30},
		    {"1024k", 1 << 20},	 {"1T", 1ull << 40},	 {"0", 0}};
	static const char *const bad[] = {"",
					  "M",
					  "-1G",
					  "1Q",
					  "1GB",
					  " 1G",
					  "0x10",
					  "1.5G",
					  "99999999999999999999G",
					  "18446744073709551615T"};
	u64 bytes;

	for (unsigned i = 0; i < ARRAY_SIZE(good); i++) {
		assert_true(config_parse_size(good[i].text, &bytes, NULL));
		assert_int_equal(bytes, good[i].bytes);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_false(config_parse_size(bad[i], &bytes, NULL));
}

static void disks(void **state)
{
	struct config_disk d;

	assert_true(config_parse_disk("a.img", &d, NULL));
	assert_string_equal(d.path, "a.img");
	assert_false(d.readonly || d.snapshot);
	g_free(d.path);
	assert_true(config_parse_disk("b.img,snapshot,readonly=on", &d, NULL));
	assert_true(d.readonly && d.snapshot);
	g_free(d.path);
	assert_false(config_parse_disk("", &d, NULL));
	assert_false(config_parse_disk(",readonly", &d, NULL));
	assert_false(config_parse_disk("a.img,fast", &d, NULL));
}

static void forwards(void **state)
{
	static const char *const bad[] = {"",
					  "tcp",
					  "tcp:",
					  "tcp:22-22",
					  "sctp::1-:2",
					  "tcp:h:80-:80",
					  "tcp::0-:80",
					  "tcp::80-:65536",
					  "tcp::80:80",
					  "tcp:::1:80-:80",
					  "tcp:127.0.0.1:80-",
					  "tcp::80-10.0.2.15"};
	struct config_forward f;

	assert_true(config_parse_forward("tcp:127.0.0.1:2222-:22", &f, NULL));
	assert_false(f.udp);
	assert_string_equal(f.host, "127.0.0.1");
	assert_int_equal(f.host_port, 2222);
	assert_string_equal(f.guest, "");
	assert_int_equal(f.guest_port, 22);
	g_free(f.host);
	g_free(f.guest);
	assert_true(config_parse_forward("udp::53-10.0.2.15:5353", &f, NULL));
	assert_true(f.udp);
	assert_string_equal(f.guest, "10.0.2.15");
	g_free(f.host);
	g_free(f.guest);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_false(config_parse_forward(bad[i], &f, NULL));
}

static void whole_lines(void **state)
{
	bool help;
	struct run_config *cfg =
		parse(NULL, &help,
		      "run -k bz --initrd=rd -m 2G -c4 --disk a --disk b,readonly --net "
		      "user,hostfwd=tcp::1-:2,hostfwd=udp::3-:4 --rng --console virtio --no-reboot "
		      "--timeout 9 --cpu amd --accel auto -- ls -l --memory");

	assert_non_null(cfg);
	assert_string_equal(cfg->kernel, "bz");
	assert_string_equal(cfg->initrd, "rd");
	assert_int_equal(cfg->memory, 2ull << 30);
	assert_int_equal(cfg->cpus, 4);
	assert_int_equal(cfg->disk_count, 2);
	assert_true(cfg->net && cfg->forward_count == 2);
	assert_true(cfg->rng && cfg->no_reboot && !cfg->default_guest);
	assert_int_equal(cfg->console, CONSOLE_VIRTIO);
	assert_int_equal(cfg->timeout, 9);
	assert_string_equal(cfg->vendor, "amd");
	assert_string_equal(cfg->command[2], "--memory");
	assert_null(cfg->command[3]);
	config_free(cfg);
	cfg = parse(NULL, &help, "run");
	assert_true(cfg->default_guest && cfg->cpus == 1 && !cfg->command);
	config_free(cfg);
	assert_null(parse(NULL, &help, "run --help --bogus"));
	assert_true(help);
}

static void wrong_lines(void **state)
{
	refused("run --bogus", "--bogus");
	refused("run -z", "-z");
	refused("run --rng=yes", "--rng=yes");
	refused("run --memory", "--memory");
	refused("run stray", "stray");
	refused("run -m 8M", "too little memory");
	refused("run --cpus 65", "65");
	refused("run --cpus 0", "cpus");
	refused("run --cpus 1x", "1x");
	refused("run --cpu z80", "z80");
	refused("run --accel warp", "warp");
	refused("run --net tap", "tap");
	refused("run --net user,dns=1", "dns=1");
	refused("run --net none,hostfwd=tcp::1-:2", "none");
	refused("run --initrd x", "--initrd");
	refused("run --timeout 0", "timeout");
}

static void too_many(void **state)
{
	GString *disks = g_string_new("run"), *ports = g_string_new("run --net user");

	for (unsigned i = 0; i <= CONFIG_DISKS_MAX; i++)
		g_string_append(disks, " -d x");
	for (unsigned i = 0; i <= CONFIG_FORWARDS_MAX; i++)
		g_string_append(ports, ",hostfwd=tcp::1-:2");
	refused(disks->str, "disks");
	refused(ports->str, "forwards");
	g_string_free(disks, TRUE);
	g_string_free(ports, TRUE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes),       cmocka_unit_test(disks),
		cmocka_unit_test(forwards),    cmocka_unit_test(whole_lines),
		cmocka_unit_test(wrong_lines), cmocka_unit_test(too_many),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
