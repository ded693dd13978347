# group: programs
# image: gcc
# A real file with optimization: the image reader of Debian's libstb-dev.
printf '#define STB_IMAGE_IMPLEMENTATION\n#include <stb/stb_image.h>\n' >/tmp/x.c
seconds gcc -O1 -c -o /tmp/y.o /tmp/x.c
