/*
 * Raw mode with restoration on every way out; terminal.h tells the plan.
 *
 * A terminal and the signal handlers are one per process, so this file keeps the only static
 * state of the VMM.
 */
#include "vmm/terminal.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

static struct termios saved;
static volatile sig_atomic_t raw;
static int guard_fd = -1; /* our end of the guard's pipe */
static pid_t guard_pid;
static pid_t owner_pid;

static const int fatal_signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS};

static void set_attributes(const struct termios *attr)
{
	struct sigaction ignore = {.sa_handler = SIG_IGN}, old;

	/* Without this a process that went to the background would be stopped by tcsetattr. */
	sigaction(SIGTTOU, &ignore, &old);
	while (tcsetattr(STDIN_FILENO, TCSANOW, attr) && errno == EINTR)
		;
	sigaction(SIGTTOU, &old, NULL);
}

static void set_raw(void)
{
	struct termios t = saved;

	cfmakeraw(&t);
	set_attributes(&t);
	raw = 1;
}

static void on_fatal(int sig)
{
	static const char text[] = "\nanykvm: stopped by an internal error (a fatal signal); "
				   "please report it\n";

	terminal_restore();
	if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0) {
		/* nothing is left to tell it with */
	}
	/* SA_RESETHAND put the default back: the signal now ends us as it should. */
	raise(sig);
}

static void install_handlers(void)
{
	struct sigaction sa = {.sa_handler = on_fatal,
			       .sa_flags = (int)(SA_RESETHAND | SA_NODEFER)};

	sigemptyset(&sa.sa_mask);
	for (unsigned i = 0; i < sizeof(fatal_signals) / sizeof(fatal_signals[0]); i++)
		sigaction(fatal_signals[i], &sa, NULL);
}

/* The guard: sleeps until our end of the pipe closes; one byte before that says all is well. */
static void run_guard(int fd)
{
	char c;
	ssize_t n;

	setpgid(0, 0); /* Ctrl-C for the foreground group is not for us */
	signal(SIGTTOU, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	close(STDOUT_FILENO);
	close(STDERR_FILENO);
	prctl(PR_SET_NAME, "anykvm-tty", 0, 0, 0);
	do
		n = read(fd, &c, 1);
	while (n < 0 && errno == EINTR);
	if (n == 0)
		tcsetattr(STDIN_FILENO, TCSANOW, &saved);
	_exit(0);
}

static void start_guard(void)
{
	int p[2];

	if (pipe(p))
		return;
	guard_pid = fork();
	if (guard_pid == 0) {
		close(p[1]);
		run_guard(p[0]);
	}
	close(p[0]);
	if (guard_pid < 0) {
		close(p[1]);
		return;
	}
	guard_fd = p[1];
}

bool terminal_init(void)
{
	install_handlers();
	if (!isatty(STDIN_FILENO) || tcgetpgrp(STDIN_FILENO) != getpgrp() ||
	    tcgetattr(STDIN_FILENO, &saved))
		return false;
	owner_pid = getpid();
	start_guard();
	set_raw();
	atexit(terminal_restore);
	return true;
}

void terminal_restore(void)
{
	if (!raw || getpid() != owner_pid)
		return;
	raw = 0;
	set_attributes(&saved);
	if (guard_fd < 0)
		return;
	if (write(guard_fd, "q", 1) != 1) {
		/* the guard is gone; the terminal is restored all the same */
	}
	close(guard_fd);
	guard_fd = -1;
	waitpid(guard_pid, NULL, 0);
}

void terminal_resume(void)
{
	if (owner_pid == getpid() && isatty(STDIN_FILENO) && tcgetpgrp(STDIN_FILENO) == getpgrp())
		set_raw();
}
