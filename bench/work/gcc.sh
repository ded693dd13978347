# group: programs
# image: gcc
# A real file with optimization: the formatter of Debian's libstb-dev.
printf '#define STB_SPRINTF_IMPLEMENTATION\n#include <stb/stb_sprintf.h>\n' >/tmp/x.c
seconds gcc -O1 -c -o /tmp/y.o /tmp/x.c
