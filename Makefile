# sluice: prompt workflows in Lua on a small C runtime.
#
#   make                       build/sluice, the whole program in one file
#   make demo                  see it work; needs no key
#   make test                  everything that can be checked on this machine
#   make install PREFIX=/usr   (DESTDIR= for packagers)
#   make help                  every target
#
# Variables, all optional:
#   MODE=release|debug|asan|fuzz|cov   each builds in its own folder, build/MODE
#   CC, CFLAGS, CPPFLAGS, LDFLAGS, LDLIBS   yours come after ours, so they win
#   PKG_CONFIG                 the tool that finds the libraries (a cross one, say)
#   LUA_CFLAGS= LUA_LIBS=, and the same for CJSON, CURL, EVENT, EDIT: instead of asking pkg-config
#   BUILD_CC                   the compiler of tools that run while building; CC unless given
#   WERROR=1|0                 warnings are errors; 1 with compilers this tree is known clean on
#   V=1                        show every command
#   PREFIX=/usr/local DESTDIR= BINDIR= MANDIR= DATADIR=   where `make install` puts things
#
# Everything lands under build/. A change of flags rebuilds what it concerns.

VERSION := $(shell sed -n 's/^\#define SLUICE_VERSION "\(.*\)"/\1/p' runtime/bind/sys.h)

MODE ?= release
B := build/$(MODE)
TOOLS := build/tools
PKG_CONFIG ?= pkg-config
BUILD_CC ?= $(CC)
FUZZ_CC ?= clang
FUZZ_SECONDS ?= 60
DEMO ?= build/sluice run --mock scripts/demo.lua

PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
MANDIR ?= $(PREFIX)/share/man
DATADIR ?= $(PREFIX)/share

V ?= 0
ifeq ($(V),1)
Q :=
say := @:
else
Q := @
say = @printf '  %-5s %s\n'
MAKEFLAGS += --no-print-directory
endif

ifeq ($(filter $(MODE),release debug asan fuzz cov),)
$(error MODE=$(MODE) is not one of release, debug, asan, fuzz, cov)
endif
ifeq ($(MODE),fuzz)
override CC := $(FUZZ_CC)
endif

# Targets that compile nothing do not look for libraries.
NO_BUILD := help clean deps tools demo test fuzz coverage lint format layers uninstall dist
ifneq ($(filter-out $(NO_BUILD),$(or $(MAKECMDGOALS),all)),)
CONFIGURE := 1
endif

# Libraries ----------------------------------------------------------------------------------------
# One library has different names on Debian, Fedora, Alpine, Arch and Homebrew.

ifdef CONFIGURE
find_pc = $(shell for name in $(1); do \
  $(PKG_CONFIG) --exists "$$name" 2>/dev/null && { echo "$$name"; break; }; done)
pc_cflags = $(if $(1),$(shell $(PKG_CONFIG) --cflags '$(1)'))
pc_libs = $(if $(1),$(shell $(PKG_CONFIG) --libs '$(1)'))

LUA_PC := $(call find_pc,lua5.4 lua-5.4 lua54 'lua >= 5.4 lua < 5.5')
CJSON_PC := $(call find_pc,lua5.4-cjson lua-5.4-cjson lua54-cjson lua-cjson)
CURL_PC := $(call find_pc,'libcurl >= 7.76')
EVENT_PC := $(call find_pc,'libevent >= 2.1')
EDIT_PC := $(call find_pc,libedit)

LUA_CFLAGS ?= $(call pc_cflags,$(LUA_PC))
LUA_LIBS ?= $(call pc_libs,$(LUA_PC))
CJSON_CFLAGS ?= $(call pc_cflags,$(CJSON_PC))
CURL_CFLAGS ?= $(call pc_cflags,$(CURL_PC))
CURL_LIBS ?= $(call pc_libs,$(CURL_PC))
EVENT_CFLAGS ?= $(call pc_cflags,$(EVENT_PC))
EVENT_LIBS ?= $(call pc_libs,$(EVENT_PC))
EDIT_CFLAGS ?= $(call pc_cflags,$(EDIT_PC))
EDIT_LIBS ?= $(call pc_libs,$(EDIT_PC))

# Outside Debian lua-cjson is only a module for `require`; it links just as well by its path.
CJSON_MODULE := $(firstword $(wildcard /usr/lib*/lua/5.4/cjson.so /usr/lib/*/lua/5.4/cjson.so \
  /usr/local/lib*/lua/5.4/cjson.so /opt/homebrew/lib/lua/5.4/cjson.so))
CJSON_LIBS ?= $(or $(call pc_libs,$(CJSON_PC)), \
  $(if $(CJSON_MODULE),$(CJSON_MODULE) -Wl$(comma)-rpath$(comma)$(dir $(CJSON_MODULE))))
comma := ,

UNFOUND := $(if $(strip $(LUA_LIBS)),,lua5.4) $(if $(strip $(CJSON_LIBS)),,lua-cjson) \
  $(if $(strip $(CURL_LIBS)),,libcurl) $(if $(strip $(EVENT_LIBS)),,libevent) \
  $(if $(strip $(EDIT_LIBS)),,libedit)
endif

# Flags --------------------------------------------------------------------------------------------
# Ours are in our own variables, so that `make CFLAGS=-O3` adds to them and does not replace them.

ifdef CONFIGURE
# A newer compiler's new warning must not stop somebody's build, so -Werror only where it is quiet.
COMPILER := $(shell echo 'gcc-__GNUC__ clang-__clang_major__' | $(CC) -E -P -x c - 2>/dev/null | \
  tr -d ' ' | sed -n 's/.*clang-\([0-9][0-9]*\)/clang-\1/p; t; s/\(gcc-[0-9]*\)clang.*/\1/p')
WERROR ?= $(if $(filter gcc-12 clang-14,$(COMPILER)),1,0)
UNAME := $(shell uname -s)
endif

WARNINGS := -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wvla
SANITIZE := -fsanitize=address,undefined
MODE_release := -O2 -g
MODE_debug := -O0 -g3
MODE_asan := -O1 -g $(SANITIZE) -fno-omit-frame-pointer -fno-sanitize-recover=all
MODE_fuzz := $(MODE_asan) -fsanitize=fuzzer-no-link
MODE_cov := -O0 -g --coverage
HARDEN_release := -fstack-protector-strong -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2

OUR_CPPFLAGS := -D_GNU_SOURCE -Iruntime $(if $(filter debug asan,$(MODE)),-DSLUICE_FAULTS)
OUR_CFLAGS = -std=c11 $(WARNINGS) $(if $(filter 1,$(WERROR)),-Werror) $(MODE_$(MODE)) \
  $(HARDEN_$(MODE))
LIB_CFLAGS = $(LUA_CFLAGS) $(CJSON_CFLAGS) $(CURL_CFLAGS) $(EVENT_CFLAGS) $(EDIT_CFLAGS)
# -rdynamic: C modules that a script requires find Lua's functions in the program.
OUR_LDFLAGS = $(filter -fsanitize% --coverage,$(MODE_$(MODE))) -rdynamic \
  $(if $(filter Linux,$(UNAME)),-Wl$(comma)--as-needed)
# libedit is loaded at run time (runtime/io/editline.h); what it was found by only tells that it is there.
DL_LIBS := $(if $(filter Linux,$(UNAME)),-ldl)
OUR_LDLIBS = $(CJSON_LIBS) $(LUA_LIBS) $(CURL_LIBS) $(EVENT_LIBS) $(DL_LIBS) -lm

COMPILE = $(CC) $(OUR_CPPFLAGS) $(LIB_CFLAGS) $(OUR_CFLAGS) $(CPPFLAGS) $(CFLAGS) -MMD -MP
LINK = $(CC) $(OUR_CFLAGS) $(CFLAGS) $(OUR_LDFLAGS) $(LDFLAGS)
LIBS = $(OUR_LDLIBS) $(LDLIBS)

# Sources ------------------------------------------------------------------------------------------

SRC := $(filter-out runtime/embed.c,$(sort $(shell find runtime -name '*.c')))
LUALIB := $(sort $(shell find lualib/sluice lualib/meta -name '*.lua' 2>/dev/null))
OBJ := $(SRC:%.c=$(B)/%.o)
BASE_OBJ := $(filter $(B)/runtime/base/%,$(OBJ))
MAIN_OBJ := $(B)/runtime/main.o
REST_OBJ := $(filter-out $(BASE_OBJ) $(MAIN_OBJ),$(OBJ)) $(B)/lualib.o

# A C test or fuzz target links the pure floor alone, unless it includes a header of another one.
CTEST_SRC := $(sort $(shell find tests/c -name 'test_*.c' 2>/dev/null))
FUZZ_SRC := $(sort $(wildcard tests/fuzz/fuzz_*.c))
UPSTAIRS := $(if $(CTEST_SRC)$(FUZZ_SRC),$(shell grep -lE '^\#include "(io|task|bind)/' \
  $(CTEST_SRC) $(FUZZ_SRC)))
CTEST := $(CTEST_SRC:%.c=$(B)/%)
FUZZ_TARGET := $(FUZZ_SRC:%.c=$(B)/%)
REPLAY := $(FUZZ_SRC:tests/fuzz/fuzz_%.c=$(B)/tests/fuzz/replay_%)

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: all program tests ctests replays tools ctest help deps demo test bench fuzz fuzz-targets lint format \
  layers docs install uninstall dist clean coverage FORCE
FORCE:

##@ Build

all: program ## build the program (the default); MODE=debug|asan|cov for other kinds

program: $(B)/sluice
ifeq ($(MODE),release)
	$(Q)ln -sfn release/sluice build/sluice
endif

$(B)/sluice: $(MAIN_OBJ) $(B)/librest.a $(B)/libbase.a $(B)/.link
	$(say) LINK $@
	$(Q)$(LINK) $(filter %.o %.a,$^) $(LIBS) -o $@

$(B)/%.o: %.c $(B)/.compile
	@mkdir -p $(@D)
	$(say) CC $<
	$(Q)$(COMPILE) -c $< -o $@

# When this machine builds for itself, the library goes in compiled too; a cross build leaves that out.
EMBED := $(TOOLS)/$(if $(filter $(CC),$(BUILD_CC)),embed-compiled,embed)

$(B)/lualib.c: $(EMBED) $(LUALIB) $(B)/.lualib
	$(say) EMBED $@
	$(Q)$(EMBED) lualib $(LUALIB) >$@

$(B)/lualib.o: $(B)/lualib.c $(B)/.compile
	$(say) CC $<
	$(Q)$(COMPILE) -c $< -o $@

# Archives are made anew: `ar r` alone would keep the object of a source file that is gone.
$(B)/libbase.a: $(BASE_OBJ) $(B)/.link
$(B)/librest.a: $(REST_OBJ) $(B)/.link
$(B)/lib%.a:
	$(say) AR $@
	$(Q)rm -f $@ && $(AR) rcs $@ $(filter %.o,$^)

# Files that change only when what they hold changes: how to compile, what to link, what to embed.
compile_stamp = $(COMPILE)
link_stamp = $(LINK) $(OBJ) $(LIBS)
lualib_stamp = $(LUALIB)

$(B)/.%: FORCE
	@mkdir -p $(@D)
	@$(if $(strip $(UNFOUND)),echo "Not found: $(strip $(UNFOUND))" >&2; \
	  .ci/install-deps --check build; echo "or let make do it: make deps" >&2; exit 1)
	@printf '%s\n' '$(subst ','\'',$($*_stamp))' | cmp -s - $@ || \
	  printf '%s\n' '$(subst ','\'',$($*_stamp))' >$@

# Tools that run on this machine, built without sanitizers and without the program's libraries.
tools: $(TOOLS)/embed $(TOOLS)/exec

$(TOOLS)/embed: runtime/embed.c runtime/embed.h
$(TOOLS)/embed-compiled: runtime/embed.c runtime/embed.h
	@mkdir -p $(@D)
	$(say) CC $@
	$(Q)$(BUILD_CC) -std=c11 -D_GNU_SOURCE -Iruntime $(WARNINGS) -DEMBED_COMPILED $(LUA_CFLAGS) -O1 -g \
	  $< -o $@ $(LUA_LIBS)
$(TOOLS)/exec: tests/command/exec.c tests/command/exec_options.c tests/command/exec.h
$(TOOLS)/%:
	@mkdir -p $(@D)
	$(say) CC $@
	$(Q)$(BUILD_CC) -std=c11 -D_GNU_SOURCE -Iruntime $(WARNINGS) -O1 -g $(filter %.c,$^) -o $@

deps: ## install what the build needs (Debian; elsewhere prints the line to run)
	$(Q).ci/install-deps build

##@ Run and test

demo: ## build and show it at work, without a key or a network
	$(Q).ci/install-deps build
	$(Q)$(MAKE) MODE=release program
	$(Q)$(DEMO)

test: ## every test that can run here; the last line counts them
	$(Q).ci/install-deps test
	+$(Q)MAKE='$(MAKE)' tests/run

# What the driver runs: C units and the replay of the fuzzers' corpus.
tests: program ctests replays
ctests: $(CTEST)
replays: $(REPLAY)

ctest: $(CTEST)
	$(Q)failed=0; for t in $(CTEST); do $$t || failed=1; done; exit $$failed

.SECONDEXPANSION:
floors = $(if $(filter $(1),$(UPSTAIRS)),$(B)/librest.a) $(B)/libbase.a
floors_libs = $(if $(filter $(1),$(UPSTAIRS)),$(LIBS),$(LDLIBS))

$(B)/tests/c/%: tests/c/%.c $$(call floors,tests/c/$$*.c) $(B)/.compile $(B)/.link
	@mkdir -p $(@D)
	$(say) CC $<
	$(Q)$(COMPILE) $< $(filter %.a,$^) $(OUR_LDFLAGS) $(LDFLAGS) $(call floors_libs,$<) -o $@

$(B)/tests/fuzz/replay_%: tests/fuzz/fuzz_%.c tests/fuzz/replay_main.c \
    $$(call floors,tests/fuzz/fuzz_$$*.c) $(B)/.compile $(B)/.link
	@mkdir -p $(@D)
	$(say) CC $@
	$(Q)$(COMPILE) -MF $@.d -MT $@ -c $< -o $@.o
	$(Q)$(COMPILE) -MF $@_main.d -MT $@ -c tests/fuzz/replay_main.c -o $@_main.o
	$(Q)$(LINK) $@.o $@_main.o $(filter %.a,$^) $(call floors_libs,$<) -o $@

$(B)/tests/fuzz/fuzz_%: tests/fuzz/fuzz_%.c $$(call floors,tests/fuzz/fuzz_$$*.c) \
    $(B)/.compile $(B)/.link
	@mkdir -p $(@D)
	$(say) CC $@
	$(Q)$(COMPILE) -fsanitize=fuzzer $< $(filter %.a,$^) $(OUR_LDFLAGS) $(LDFLAGS) \
	  $(call floors_libs,$<) -o $@

fuzz: ## let clang's libFuzzer search, FUZZ_SECONDS=60 for each target (FUZZ="sse json" chooses)
	$(Q)$(MAKE) MODE=fuzz fuzz-targets
	$(Q)failed=0; for n in $(or $(FUZZ),$(FUZZ_SRC:tests/fuzz/fuzz_%.c=%)); do \
	  echo "fuzz_$$n, $(FUZZ_SECONDS) s"; \
	  mkdir -p build/fuzz/corpus/$$n build/fuzz/crashes tests/fuzz/corpus/$$n; \
	  build/fuzz/tests/fuzz/fuzz_$$n -max_total_time=$(FUZZ_SECONDS) -timeout=10 -verbosity=0 \
	    -print_final_stats=1 -artifact_prefix=build/fuzz/crashes/$$n- build/fuzz/corpus/$$n \
	    tests/fuzz/corpus/$$n 2>&1 | tee build/fuzz/$$n.log | \
	    grep -E '^(==|stat::(number|average)|.*(ERROR|artifact_prefix|runtime error))' || :; \
	  ! grep -qE 'ERROR|runtime error:|Test unit written' build/fuzz/$$n.log || failed=1; \
	done; [ $$failed = 0 ] || { echo 'crashes: build/fuzz/crashes'; exit 1; }

fuzz-targets: $(FUZZ_TARGET)

bench: program ## cost beside bare libcurl and the peers (BENCH="--quick", or rows to run)
	$(Q)bench/run $(BENCH)

coverage: ## which lines of C the tests reach
	$(Q)$(MAKE) MODE=cov tests tools
	$(Q)find build/cov -name '*.gcda' -delete
	$(Q)tests/run --mode cov --ring 1 --ring 2 --ring 3 --ring 4; status=$$?; \
	  tests/coverage build/cov; exit $$status

##@ Keep it clean

lint: ## clang-format, clang-tidy, cppcheck, luacheck, shellcheck; what is missing is skipped
	$(Q)tests/lint

format: ## rewrite the C sources as .clang-format says
	$(Q)find runtime tests bench -name '*.[ch]' -exec $(or $(CLANG_FORMAT),clang-format) -i {} +

layers: ## who may include what, and who may call what (HOUSE rules as greps)
	$(Q)tests/layers

clean: ## remove build/
	$(Q)rm -rf build

##@ Ship

DOCS = build/sluice run docs/generate.lua
docs: program ## write docs/api.md, the man page and the completions from lualib/
	$(Q)$(DOCS)

# Pairs of a file in the tree and its folder under DESTDIR; what does not exist is left out.
installed = $(B)/sluice:$(BINDIR) \
  $(foreach f,$(wildcard docs/man/*.1),$(f):$(MANDIR)/man1) \
  $(foreach f,$(wildcard docs/completions/*.bash),$(f):$(DATADIR)/bash-completion/completions) \
  $(foreach f,$(wildcard docs/completions/_*),$(f):$(DATADIR)/zsh/site-functions) \
  $(foreach f,$(wildcard docs/completions/*.fish),$(f):$(DATADIR)/fish/vendor_completions.d) \
  $(foreach f,$(sort $(shell find lualib/meta -name '*.lua' 2>/dev/null)),$(f):$(DATADIR)/sluice/$(patsubst \
    lualib/%/,%,$(dir $(f)))) \
  $(foreach f,$(wildcard scripts/*.lua),$(f):$(DATADIR)/sluice/scripts) \
  $(foreach f,$(wildcard scripts/scenarios/*.lua),$(f):$(DATADIR)/sluice/scripts/scenarios) \
  $(foreach f,$(wildcard docs/*.md docs/*.yml docs/*.json),$(f):$(DATADIR)/doc/sluice/docs) \
  $(foreach f,README.md LICENSE CHANGELOG.md,$(if $(wildcard $(f)),$(f):$(DATADIR)/doc/sluice))
source_of = $(firstword $(subst :, ,$(1)))
folder_of = $(DESTDIR)$(lastword $(subst :, ,$(1)))
# bash finds a completion by the command's bare name.
target_of = $(folder_of)/$(patsubst %.bash,%,$(notdir $(source_of)))

install: program ## install under PREFIX (DESTDIR goes in front)
	$(Q)set -e; $(foreach p,$(installed),mkdir -p '$(call folder_of,$(p))'; \
	  install -m $(if $(filter $(B)/sluice:%,$(p)),755,644) '$(call source_of,$(p))' \
	  '$(call target_of,$(p))';) :
	@echo 'Installed $(DESTDIR)$(BINDIR)/sluice'

uninstall: ## remove what install put there
	$(Q)rm -f $(foreach p,$(installed),'$(call target_of,$(p))')
	$(Q)find '$(DESTDIR)$(DATADIR)/sluice' '$(DESTDIR)$(DATADIR)/doc/sluice' -depth -type d -empty \
	  -delete 2>/dev/null || :

dist: ## build/sluice-VERSION.tar.gz from the committed tree
	@mkdir -p build
	$(Q)git archive --format=tar.gz --prefix=sluice-$(VERSION)/ -o build/sluice-$(VERSION).tar.gz HEAD
	@echo build/sluice-$(VERSION).tar.gz

help: ## this list
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' Makefile
	@echo; echo 'Variables: see the top of the Makefile.'

# For scripts: `make -s print-LIB_CFLAGS`.
print-%:
	@echo '$(subst ','\'',$($*))'

ifdef CONFIGURE
-include $(shell find $(B) -name '*.d' 2>/dev/null)
endif
