# sluice: see `make help`
MODE ?= release
B := build/$(MODE)
V ?= 0
Q := $(if $(filter 1,$(V)),,@)
CC ?= cc
PKG_CONFIG ?= pkg-config
PACKAGES := lua5.4 lua5.4-cjson libcurl libevent libedit

CPPFLAGS += -D_GNU_SOURCE -Iruntime -I$(B)
WARN := -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wvla -Werror
MODE_release := -O2 -g
MODE_debug := -O0 -g3
MODE_asan := -O1 -g -fsanitize=address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=all
CFLAGS += -std=c11 $(WARN) $(MODE_$(MODE))
LDFLAGS += $(filter -fsanitize%,$(MODE_$(MODE))) -rdynamic
PKG_CFLAGS := $(shell $(PKG_CONFIG) --cflags $(PACKAGES) 2>/dev/null)
PKG_LIBS := $(shell $(PKG_CONFIG) --libs $(PACKAGES) 2>/dev/null) -lm

SRC := $(filter-out runtime/embed.c,$(wildcard runtime/*.c runtime/*/*.c))
OBJ := $(SRC:%.c=$(B)/%.o)
LUALIB := $(shell find lualib/sluice -name '*.lua' 2>/dev/null | sort)
BASE_OBJ := $(filter $(B)/runtime/base/%,$(OBJ))
CTESTS := $(patsubst tests/c/%.c,$(B)/tests/%,$(wildcard tests/c/test_*.c))

.PHONY: all ctest clean
all: $(B)/sluice
	$(Q)ln -sfn $(MODE)/sluice build/sluice

$(B)/%.o: %.c
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(PKG_CFLAGS) $(CFLAGS) -MMD -MP -c $< -o $@

$(B)/embed: runtime/embed.c
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) -std=c11 -O1 $< -o $@

$(B)/lualib.c: $(B)/embed $(LUALIB)
	$(Q)$(B)/embed lualib $(LUALIB) > $@.tmp && mv $@.tmp $@

$(B)/lualib.o: $(B)/lualib.c
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -c $< -o $@

$(B)/sluice: $(OBJ) $(B)/lualib.o
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) $^ -o $@ $(PKG_LIBS)

$(B)/tests/%: tests/c/%.c $(BASE_OBJ)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP $< $(BASE_OBJ) $(LDFLAGS) -o $@

ctest: $(CTESTS)
	$(Q)set -e; for t in $(CTESTS); do $$t; done

clean:
	$(Q)rm -rf build

-include $(shell find $(B) -name '*.d' 2>/dev/null)
