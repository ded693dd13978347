/* The program's subcommands. A new one is a function here, a row in main.c, a file cmd_*.c. */
#ifndef VMM_CMD_H
#define VMM_CMD_H

/** Runs a command; argv[0] is its name. Returns the process' exit status. */
int cmd_run(int argc, char **argv);
int cmd_test(int argc, char **argv);
int cmd_cpuid(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_exec(int argc, char **argv);

#endif
