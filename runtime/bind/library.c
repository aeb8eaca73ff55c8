/*
** sluice.core.library: the Lua library inside the program, as a place `require` looks in and as text
** for those who read its annotations. Never writes, never looks at the disk.
*/
#include "bind/library.h"

#include <lauxlib.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bind/bind.h"
#include "embed.h"

static int by_name(const void *key, const void *file) {
  return strcmp(key, ((const struct embedded_file *)file)->name);
}

static const struct embedded_file *find(const char *name) {
  return bsearch(name, embedded_lua, embedded_lua_count, sizeof *embedded_lua, by_name);
}

/* A module's code is read once: its pages, and those that the system read with them, are given back,
** a tenth of what an idle program would hold. They are clean pages of the program's own file: should
** one be touched again, it is there again. */
static void give_back_code(void) {
  static uintptr_t first, end; /* whole pages of all modules' code: constants, nothing else */
  if (end == 0) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    first = UINTPTR_MAX;
    for (size_t i = 0; i < embedded_lua_count; i++) {
      uintptr_t from = (uintptr_t)embedded_lua[i].code, to = from + embedded_lua[i].code_size;
      if (from < first) first = from;
      if (to > end) end = to;
    }
    first = (first + page - 1) / page * page;
    end = end / page * page;
  }
  if (first < end) madvise((void *)first, end - first, MADV_DONTNEED);
}

int library_searcher(lua_State *L) {
  const char *name = luaL_checkstring(L, 1);
  const struct embedded_file *file = find(name);
  if (file == NULL) {
    lua_pushfstring(L, "no module '%s' inside sluice", name);
    return 1;
  }
  lua_pushfstring(L, "@%s", file->path);
  bool compiled = file->code != NULL && strcmp(lua_ident, embedded_lua_ident) == 0;
  const char *bytes = (const char *)(compiled ? file->code : file->data);
  size_t size = compiled ? file->code_size : file->size;
  if (luaL_loadbufferx(L, bytes, size, lua_tostring(L, -1), compiled ? "b" : "t") != LUA_OK)
    return lua_error(L);
  if (compiled) give_back_code();
  lua_pushstring(L, file->path);
  return 2;
}

/* core.source(name) -> the text of a module, as require names it | nil */
static int library_source(lua_State *L) {
  const struct embedded_file *file = find(luaL_checkstring(L, 1));
  if (file == NULL) return 0;
  lua_pushlstring(L, (const char *)file->data, file->size);
  return 1;
}

/* core.names() -> the names of all modules, sorted */
static int library_names(lua_State *L) {
  lua_createtable(L, (int)embedded_lua_count, 0);
  for (size_t i = 0; i < embedded_lua_count; i++) {
    lua_pushstring(L, embedded_lua[i].name);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  return 1;
}

int luaopen_sluice_core_library(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"source", library_source}, {"names", library_names}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
