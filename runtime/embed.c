/*
** Host tool: `embed ROOT FILE…` writes a C file on stdout that holds every FILE, each below ROOT,
** as an entry of `embedded_lua` (embed.h). It runs while building and is no part of the program.
**
** With EMBED_COMPILED each file goes in twice: as source, and compiled by the Lua that this tool is
** linked with. Loading compiled code takes a fifth of the time, which is most of the start-up of a
** script that uses models; it keeps its line numbers, and main.c falls back to the source when the
** Lua it meets is another release.
**
** The bytes go out as string literals, one per source line: gcc reads them many times faster than
** lists of numbers, and the generated file can be read by a person.
*/
#include "embed.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef EMBED_COMPILED
#include <lauxlib.h>
#include <lua.h>
#endif

struct module {
  const char *file; /* as given on the command line */
  const char *path; /* the same, below ROOT */
  char *name;
};

static void die(const char *what, const char *file, const char *why) {
  fprintf(stderr, "embed: %s %s: %s\n", what, file, why);
  exit(1);
}

/* "sluice/provider/openai.lua" -> "sluice.provider.openai"; "sluice/init.lua" -> "sluice". */
static char *module_name(const char *path) {
  static const char extension[] = ".lua", package[] = "/init";
  size_t len = strlen(path);
  if (len < sizeof extension || strcmp(path + len - (sizeof extension - 1), extension) != 0)
    die("cannot name", path, "not a .lua file");
  len -= sizeof extension - 1;
  if (len >= sizeof package &&
      strncmp(path + len - (sizeof package - 1), package, sizeof package - 1) == 0)
    len -= sizeof package - 1;
  char *name = malloc(len + 1);
  if (name == NULL) die("cannot name", path, strerror(ENOMEM));
  for (size_t i = 0; i < len; i++) {
    if (path[i] == '.') die("cannot name", path, "a dot in a folder or file name");
    name[i] = path[i] == '/' ? '.' : path[i];
  }
  name[len] = '\0';
  return name;
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const struct module *)a)->name, ((const struct module *)b)->name);
}

static void put_byte(int c) {
  switch (c) {
  case '"':
    fputs("\\\"", stdout);
    break;
  case '\\':
    fputs("\\\\", stdout);
    break;
  case '\t':
    fputs("\\t", stdout);
    break;
  case '?':
    fputs("\\?", stdout);
    break; /* -std=c11 knows trigraphs */
  default:
    /* Three digits always: a shorter escape would swallow a digit that follows. */
    if (c < 0x20 || c > 0x7e)
      printf("\\%03o", (unsigned)c);
    else
      putchar(c);
  }
}

/* Writes the content of `m` as the array file_<index>; the compiler counts its bytes. */
static void put_file(const struct module *m, size_t index) {
  FILE *in = fopen(m->file, "rb");
  if (in == NULL) die("cannot open", m->file, strerror(errno));
  printf("static const char file_%zu[] =\n  \"", index);
  for (int c; (c = getc(in)) != EOF;) {
    if (c == '\n')
      fputs("\\n\"\n  \"", stdout);
    else
      put_byte(c);
  }
  if (ferror(in)) die("cannot read", m->file, strerror(errno));
  fclose(in);
  fputs("\";\n", stdout);
}

#ifdef EMBED_COMPILED

static int put_chunk(lua_State *L, const void *bytes, size_t n, void *column) {
  (void)L;
  const unsigned char *p = bytes;
  for (size_t i = 0; i < n; i++) {
    if (++*(int *)column % 64 == 0) fputs("\"\n  \"", stdout);
    put_byte(p[i]);
  }
  return 0;
}

static void put_compiled(lua_State *L, const struct module *m, size_t index) {
  int column = 0;
  lua_pushfstring(L, "@%s", m->path); /* what main.c names it when it loads the source */
  const char *chunk_name = lua_tostring(L, -1);
  FILE *in = fopen(m->file, "rb");
  if (in == NULL) die("cannot open", m->file, strerror(errno));
  fseek(in, 0, SEEK_END);
  size_t size = (size_t)ftell(in);
  rewind(in);
  char *source = malloc(size + 1);
  if (source == NULL || fread(source, 1, size, in) != size)
    die("cannot read", m->file, strerror(errno));
  fclose(in);
  if (luaL_loadbufferx(L, source, size, chunk_name, "t") != LUA_OK)
    die("cannot compile", m->file, lua_tostring(L, -1));
  free(source);
  printf("static const char code_%zu[] =\n  \"", index);
  lua_dump(L, put_chunk, &column, 0);
  fputs("\";\n", stdout);
  lua_settop(L, 0);
}

#endif

static void put_table(const struct module *modules, size_t count) {
  puts("const struct embedded_file embedded_lua[] = {");
  for (size_t i = 0; i < count; i++) {
    printf("  {\"%s\", (const unsigned char *)file_%zu, sizeof file_%zu - 1, \"%s\", ",
           modules[i].name, i, i, modules[i].path);
#ifdef EMBED_COMPILED
    printf("(const unsigned char *)code_%zu, sizeof code_%zu - 1},\n", i, i);
#else
    puts("NULL, 0},");
#endif
  }
  /* A closing entry, because C has no arrays of length zero. */
  printf("  {NULL, NULL, 0, NULL, NULL, 0},\n};\nconst size_t embedded_lua_count = %zu;\n", count);
#ifdef EMBED_COMPILED
  printf("const char embedded_lua_ident[] = \"%s\";\n", lua_ident);
#else
  puts("const char embedded_lua_ident[] = \"\";");
#endif
}

int main(int argc, char **argv) {
  if (argc < 2) {
    fputs("usage: embed ROOT FILE... > lualib.c\n", stderr);
    return 2;
  }
  size_t root_len = strlen(argv[1]), count = (size_t)argc - 2;
  struct module *modules = calloc(count + 1, sizeof *modules);
  if (modules == NULL) die("cannot hold", argv[1], strerror(ENOMEM));
  for (size_t i = 0; i < count; i++) {
    struct module *m = &modules[i];
    m->file = argv[i + 2];
    if (strncmp(m->file, argv[1], root_len) != 0 || m->file[root_len] != '/')
      die("cannot name", m->file, "not below the root folder");
    m->path = m->file + root_len + 1;
    m->name = module_name(m->path);
  }
  qsort(modules, count, sizeof *modules, by_name);
  puts("/* Written by runtime/embed.c; do not edit. */\n#include \"embed.h\"\n");
  for (size_t i = 0; i < count; i++) {
    if (i > 0 && strcmp(modules[i].name, modules[i - 1].name) == 0)
      die("two files are one module:", modules[i - 1].file, modules[i].file);
    put_file(&modules[i], i);
  }
#ifdef EMBED_COMPILED
  lua_State *L = luaL_newstate();
  if (L == NULL) die("cannot start", "Lua", strerror(ENOMEM));
  for (size_t i = 0; i < count; i++) put_compiled(L, &modules[i], i);
  lua_close(L);
#endif
  put_table(modules, count);
  if (fflush(stdout) != 0 || ferror(stdout)) die("cannot write", "stdout", strerror(errno));
  for (size_t i = 0; i < count; i++) free(modules[i].name);
  free(modules);
  return 0;
}
