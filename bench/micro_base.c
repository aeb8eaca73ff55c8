/*
** What the pure floor costs on the hot path, in ns of CPU per event: parsing server-sent events and
** pulling the text out of provider chunks. No network, no Lua. Prints one line per row.
**
**   cc -std=c11 -D_GNU_SOURCE -O2 -Iruntime bench/micro_base.c runtime/base/[a-z]*.c -o
* /tmp/micro_base
*/
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/delta.h"
#include "base/limits.h"
#include "base/sse.h"

#define EVENTS 2000 /* in one round: about what one full receive buffer after another brings */
#ifndef ROUNDS
#define ROUNDS 400
#endif

static const char openai_chunk[] =
    "data: "
    "{\"id\":\"chatcmpl-9f8e7d6c5b4a39281706f5e4d3c2b1a0\",\"object\":\"chat.completion.chunk\","
    "\"created\":1763654321,\"model\":\"deepseek-ai/DeepSeek-V3\",\"system_fingerprint\":"
    "\"fp_a1b2c3d4e5\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"%s\"},\"logprobs\":null,"
    "\"finish_reason\":null}],\"usage\":null}\n\n";

static const char siliconflow_chunk[] =
    "data: {\"id\":\"019a7c5e2f\",\"object\":\"chat.completion.chunk\",\"created\":1763654321,"
    "\"model\":\"Qwen/Qwen3-8B\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"%s\","
    "\"reasoning_content\":null,\"role\":\"assistant\"},\"finish_reason\":null}],"
    "\"system_fingerprint\":\"\",\"usage\":{\"prompt_tokens\":21,\"completion_tokens\":9,"
    "\"total_tokens\":30}}\n\n";

static const char anthropic_chunk[] =
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":"
    "{\"type\":\"text_delta\",\"text\":\"%s\"}}\n\n";

static const char spaced_chunk[] = "event: content_block_delta\ndata: {\"type\": "
                                   "\"content_block_delta\", \"index\": 0, \"delta\": "
                                   "{\"type\": \"text_delta\", \"text\": \"%s\"}}\n\n";

struct row {
  const char *name, *chunk, *text;
  size_t piece; /* bytes fed at a time */
  bool anthropic;
};

static const struct row rows[] = {
    {"openai, 16 KiB reads", openai_chunk, " token", 16384, false},
    {"openai, one event a read", openai_chunk, " token", 0, false},
    {"openai, escape in the text", openai_chunk, "a\\nb", 16384, false},
    {"openai, chinese", openai_chunk, "\xE4\xBD\xA0\xE5\xA5\xBD", 16384, false},
    {"siliconflow, usage each", siliconflow_chunk, " token", 16384, false},
    {"anthropic, 16 KiB reads", anthropic_chunk, " token", 16384, true},
    {"anthropic, with spaces", spaced_chunk, " token", 16384, true},
};

static double cpu_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* One pass over the stream; the number of text bytes, so that nothing is optimised away. */
static size_t pass(struct sse *s, const struct row *row, const char *stream, size_t n, size_t piece,
                   bool look, struct buf *scratch) {
  size_t bytes = 0;
  for (size_t at = 0; at < n; at += piece) {
    struct sse_event ev;
    if (sse_feed(s, stream + at, n - at < piece ? n - at : piece) != BUF_OK) abort();
    while (sse_next(s, &ev) == 1) {
      struct delta d;
      if (!look) {
        bytes += ev.data_len;
        continue;
      }
      bool plain = row->anthropic
                       ? delta_anthropic(ev.event, ev.event_len, ev.data, ev.data_len, &d, scratch)
                       : delta_openai(ev.data, ev.data_len, &d, scratch);
      if (!plain) abort();
      bytes += d.text_len;
    }
  }
  return bytes;
}

static void measure(const struct row *row) {
  char event[1024];
  int length = snprintf(event, sizeof event, row->chunk, row->text);
  if (length <= 0 || (size_t)length >= sizeof event) abort();
  size_t size = (size_t)length, n = size * EVENTS, piece = row->piece > 0 ? row->piece : size;
  char *stream = malloc(n);
  if (stream == NULL) abort();
  for (size_t i = 0; i < EVENTS; i++) memcpy(stream + i * size, event, size);
  struct buf scratch;
  buf_init(&scratch, STREAM_TEXT_MAX);
  double ns[2] = {0, 0};
  size_t sink = 0;
  for (int look = 0; look < 2; look++) {
    struct sse s;
    sse_init(&s, SSE_EVENT_MAX);
    sink += pass(&s, row, stream, n, piece, look != 0, &scratch);
    double best = 1e18; /* of short passes: what else runs on the machine only ever adds */
    for (int i = 0; i < ROUNDS; i++) {
      double start = cpu_ns();
      sink += pass(&s, row, stream, n, piece, look != 0, &scratch);
      double took = (cpu_ns() - start) / EVENTS;
      if (took < best) best = took;
    }
    ns[look] = best;
    sse_free(&s);
  }
  printf("%-28s %4zu bytes an event  sse %6.1f ns  sse + delta %6.1f ns  (%zu)\n", row->name, size,
         ns[0], ns[1], sink % 10);
  buf_free(&scratch);
  free(stream);
}

/* Without arguments all rows, else those whose name begins with one of them. */
int main(int argc, char **argv) {
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    bool wanted = argc == 1;
    for (int a = 1; a < argc; a++) {
      if (strncmp(rows[i].name, argv[a], strlen(argv[a])) == 0) wanted = true;
    }
    if (wanted) measure(&rows[i]);
  }
  return 0;
}
