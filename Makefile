# Thin: every target is one script or one command. See README.md.

BUILD ?= build
PYTHON ?= /usr/bin/python3

.PHONY: all build run test bench docs fuzz asan tsan clang format-check clean distclean

all: build

build:
	@scripts/setup build
	@scripts/build $(BUILD)

# ARGS="--cpus 4 --memory 2G" goes to anykvm run.
run:
	@scripts/setup build
	@TARGETS=anykvm scripts/build $(BUILD)
	@scripts/guest-assets --dir $(BUILD)/guest 6.1
	@exec $(BUILD)/anykvm run --cpus 2 --memory 1G $(ARGS)

# SUITE=unit runs one suite.
test:
	@scripts/setup build test
	@scripts/build $(BUILD) && scripts/test $(BUILD) $(SUITE)

# QUICK=1 is one round in less than 5 minutes.
bench:
	@scripts/setup build bench
	@scripts/build $(BUILD)
	@scripts/guest-assets --dir $(BUILD)/guest 6.1 bench gcc
	@$(PYTHON) bench/bench --build $(BUILD) $(if $(QUICK),--quick) $(ARGS)

docs:
	@scripts/setup docs
	@$(PYTHON) -m sphinx -q -W --keep-going -b html docs $(BUILD)/docs
	@$(PYTHON) -m sphinx -q -W --keep-going -b man docs $(BUILD)/man
	@echo "docs: $(BUILD)/docs/index.html, man pages in $(BUILD)/man"

fuzz:
	@scripts/setup build clang
	@scripts/fuzz

# ASan and UBSan, TSan, a compile by clang: each in a build folder of its own.
asan:
	@scripts/setup build test
	@scripts/build build-asan -Db_sanitize=address,undefined -Db_lundef=false -Doptimization=1
	@scripts/test build-asan unit api -- --no-suite no-asan

tsan:
	@scripts/setup build test
	@scripts/build build-tsan -Db_sanitize=thread -Db_lundef=false -Doptimization=1
	@scripts/test build-tsan unit api -- --no-suite no-tsan

clang:
	@scripts/setup build clang
	@CC=clang scripts/build build-clang -Dc_link_args=-Wno-unused-command-line-argument

format-check:
	@scripts/setup format
	@git ls-files '*.c' '*.h' | xargs clang-format --dry-run --Werror

# The guests' files stay: they are checked on every use.
clean:
	@rm -rf build-asan build-tsan build-clang build-fuzz
	@[ ! -d $(BUILD) ] || find $(BUILD) -mindepth 1 -maxdepth 1 ! -name guest -exec rm -rf {} +

distclean: clean
	@rm -rf $(BUILD)
