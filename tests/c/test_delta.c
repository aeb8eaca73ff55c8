/*
** base/delta: the chunks of providers as they are on the wire, and near misses. Yes must mean:
** valid JSON, this text, this usage, and nothing else of meaning. Every cut of a plain chunk is a
** no; and a plain chunk is plain whatever white space stands between its tokens.
*/
#include <stdlib.h>

#include "base/delta.h"
#include "base/utf8.h"

#include "check.h"
#include "json_reference.h"

struct row {
  const char *name, *data;
  const char *text;  /* NULL: not plain */
  const char *usage; /* NULL: none */
};

/* clang-format off */
#define CHUNK(delta) "{\"id\":\"c1\",\"object\":\"chat.completion.chunk\",\"created\":1763654321,\"model\":\"m\"," \
  "\"choices\":[{\"index\":0,\"delta\":" delta ",\"finish_reason\":null}]}"
#define CHOICE(fields) "{\"id\":\"c1\",\"object\":\"chat.completion.chunk\",\"choices\":[{" fields "}]}"
#define TOP(fields) "{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"}}]," fields "}"

static const struct row openai[] = {
    /* OpenAI */
    {"openai: role chunk", CHUNK("{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null}"), NULL, NULL},
    {"openai: text", CHUNK("{\"content\":\"Hel\"}"), "Hel", NULL},
    {"openai: with usage null, obfuscation, service tier",
     "{\"id\":\"chatcmpl-B9\",\"object\":\"chat.completion.chunk\",\"created\":1741570283,\"model\":\"gpt-5\","
     "\"service_tier\":\"default\",\"system_fingerprint\":\"fp_fc9f1d7035\",\"choices\":[{\"index\":0,\"delta\":"
     "{\"content\":\" world\"},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null,\"obfuscation\":"
     "\"a8Fh2k\"}", " world", NULL},
    {"openai: finish chunk", CHOICE("\"index\":0,\"delta\":{},\"finish_reason\":\"stop\""), NULL, NULL},
    {"openai: text and finish in one chunk",
     CHOICE("\"index\":0,\"delta\":{\"content\":\"x\"},\"finish_reason\":\"stop\""), NULL, NULL},
    {"openai: usage chunk",
     "{\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3,\"total_tokens\":12}}", NULL, NULL},
    {"openai: [DONE]", "[DONE]", NULL, NULL},
    {"openai: tool call opens", CHUNK("{\"tool_calls\":[{\"index\":0,\"id\":\"call_a\",\"type\":\"function\","
     "\"function\":{\"name\":\"f\",\"arguments\":\"\"}}]}"), NULL, NULL},
    {"openai: text beside a tool call", CHUNK("{\"content\":\"x\",\"tool_calls\":[{\"index\":0}]}"), NULL, NULL},
    {"openai: refusal", CHUNK("{\"content\":null,\"refusal\":\"I can't\"}"), NULL, NULL},
    {"openai: text beside a refusal", CHUNK("{\"content\":\"x\",\"refusal\":\"I can't\"}"), NULL, NULL},
    {"openai: log probabilities",
     CHOICE("\"index\":0,\"delta\":{\"content\":\"x\"},\"logprobs\":{\"content\":[]},\"finish_reason\":null"),
     NULL, NULL},
    {"openai: error in a 200", "{\"error\":{\"message\":\"slow down\",\"type\":\"server_error\"}}", NULL, NULL},
    {"openai: legacy function call", CHUNK("{\"content\":\"x\",\"function_call\":{\"name\":\"f\"}}"), NULL, NULL},

    /* compatible vendors */
    {"siliconflow: usage on each chunk",
     "{\"id\":\"019\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"Qwen/Qwen3-8B\",\"choices\":"
     "[{\"index\":0,\"delta\":{\"content\":\"\xE4\xBD\xA0\",\"reasoning_content\":null,\"role\":\"assistant\"},"
     "\"finish_reason\":null}],\"system_fingerprint\":\"\",\"usage\":{\"prompt_tokens\":21,"
     "\"completion_tokens\":9,\"total_tokens\":30,\"completion_tokens_details\":{\"reasoning_tokens\":0}}}",
     "\xE4\xBD\xA0",
     "{\"prompt_tokens\":21,\"completion_tokens\":9,\"total_tokens\":30,\"completion_tokens_details\":"
     "{\"reasoning_tokens\":0}}"},
    {"usage before the choices", "{\"usage\" : { \"total_tokens\" : 1 } ,\"choices\":[{\"delta\":{\"content\":\"x\"}}]}",
     "x", "{ \"total_tokens\" : 1 }"},
    {"usage is empty", TOP("\"usage\":{}"), "hi", "{}"},
    {"usage is no object", TOP("\"usage\":\"12\""), NULL, NULL},
    {"usage is a list", TOP("\"usage\":[]"), NULL, NULL},
    {"usage twice", TOP("\"usage\":null,\"usage\":{\"total_tokens\":1}"), NULL, NULL},
    {"moonshot: usage within the choice",
     CHOICE("\"index\":0,\"delta\":{\"content\":\"x\"},\"finish_reason\":null,\"usage\":{\"total_tokens\":1}"),
     NULL, NULL},
    {"deepseek: reasoning", CHUNK("{\"content\":null,\"reasoning_content\":\"hmm\"}"), NULL, NULL},
    {"deepseek: text, reasoning null", CHUNK("{\"content\":\"x\",\"reasoning_content\":null}"), "x", NULL},
    {"deepseek: text and reasoning", CHUNK("{\"content\":\"x\",\"reasoning_content\":\"hmm\"}"), NULL, NULL},
    {"reasoning in front of the text", CHUNK("{\"reasoning_content\":\"hmm\",\"content\":\"x\"}"), NULL, NULL},
    {"openrouter: reasoning empty", CHUNK("{\"role\":\"assistant\",\"content\":\"x\",\"reasoning\":\"\","
     "\"reasoning_details\":[]}"), "x", NULL},
    {"openrouter: reasoning details", CHUNK("{\"content\":\"x\",\"reasoning_details\":[{\"text\":\"h\"}]}"), NULL, NULL},
    {"openrouter: reasoning", CHUNK("{\"content\":\"\",\"reasoning\":\"hmm\"}"), NULL, NULL},
    {"openrouter: provider, native finish reason",
     "{\"id\":\"gen-1\",\"provider\":\"X\",\"model\":\"a/b\",\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,"
     "\"delta\":{\"role\":\"assistant\",\"content\":\"x\"},\"finish_reason\":null,\"native_finish_reason\":null,"
     "\"logprobs\":null}]}", "x", NULL},
    {"openrouter: error in mid-stream",
     "{\"id\":\"gen-1\",\"error\":{\"code\":502,\"message\":\"m\"},\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"},"
     "\"finish_reason\":\"error\"}]}", NULL, NULL},
    {"error beside text", TOP("\"error\":{\"code\":502}"), NULL, NULL},
    {"error in the choice", CHOICE("\"delta\":{\"content\":\"x\"},\"error\":{\"code\":502}"), NULL, NULL},
    {"error null", TOP("\"error\":null"), "hi", NULL},
    {"error is a string", TOP("\"error\":\"busy\""), NULL, NULL},
    {"vllm: error", "{\"object\":\"error\",\"message\":\"m\",\"type\":\"BadRequestError\",\"code\":400}", NULL, NULL},
    {"object says error beside text", TOP("\"object\":\"error\""), NULL, NULL},
    {"type says error beside text", TOP("\"type\":\"error\""), NULL, NULL},
    {"object written with an escape", TOP("\"object\":\"\\u0065rror\""), NULL, NULL},
    {"azure: filter results", "{\"choices\":[{\"content_filter_results\":{\"hate\":{\"filtered\":false}},"
     "\"delta\":{\"content\":\"x\"},\"finish_reason\":null,\"index\":0,\"logprobs\":null}],\"prompt_filter_results\":[]}",
     "x", NULL},
    {"ollama: index 0, role again", CHUNK("{\"role\":\"assistant\",\"content\":\"x\"}"), "x", NULL},
    {"no index, no finish reason", "{\"choices\":[{\"delta\":{\"content\":\"x\"}}]}", "x", NULL},
    {"mistral: content is a list", CHUNK("{\"content\":[{\"type\":\"text\",\"text\":\"x\"}]}"), NULL, NULL},
    {"role is empty or null", CHUNK("{\"role\":\"\",\"content\":\"x\"}"), "x", NULL},
    {"role null", CHUNK("{\"role\":null,\"content\":\"x\"}"), "x", NULL},
    {"tool calls null or empty", CHUNK("{\"content\":\"x\",\"tool_calls\":[],\"function_call\":null}"), "x", NULL},
    {"tool calls null", CHUNK("{\"tool_calls\":null,\"content\":\"x\"}"), "x", NULL},
    {"an unknown field with nothing in it", CHUNK("{\"content\":\"x\",\"annotations\":[],\"audio\":null}"), "x", NULL},
    {"an unknown field with something in it", CHUNK("{\"content\":\"x\",\"audio\":{\"id\":1}}"), NULL, NULL},
    {"a whole message where a delta belongs",
     CHOICE("\"index\":0,\"delta\":{\"content\":\"x\"},\"message\":{\"content\":\"y\"}"), NULL, NULL},

    /* near misses */
    {"no choices", "{\"id\":\"x\"}", NULL, NULL},
    {"choices null", "{\"choices\":null}", NULL, NULL},
    {"two choices", "{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}},{\"index\":1,\"delta\":{}}]}", NULL, NULL},
    {"another choice", "{\"choices\":[{\"index\":1,\"delta\":{\"content\":\"x\"}}]}", NULL, NULL},
    {"index is a float", "{\"choices\":[{\"index\":0.0,\"delta\":{\"content\":\"x\"}}]}", NULL, NULL},
    {"index is a string", "{\"choices\":[{\"index\":\"0\",\"delta\":{\"content\":\"x\"}}]}", NULL, NULL},
    {"index null", "{\"choices\":[{\"index\":null,\"delta\":{\"content\":\"x\"}}]}", NULL, NULL},
    {"content null", CHUNK("{\"content\":null}"), NULL, NULL},
    {"content empty", CHUNK("{\"content\":\"\"}"), NULL, NULL},
    {"content a number", CHUNK("{\"content\":5}"), NULL, NULL},
    {"content absent", CHUNK("{}"), NULL, NULL},
    {"content at the wrong level", "{\"choices\":[{\"delta\":{\"inner\":{\"content\":\"x\"}}}]}", NULL, NULL},
    {"content twice", CHUNK("{\"content\":\"x\",\"content\":\"y\"}"), NULL, NULL},
    {"delta twice", CHOICE("\"delta\":{\"content\":\"x\"},\"delta\":{}"), NULL, NULL},
    {"choices twice", "{\"choices\":[{\"delta\":{\"content\":\"x\"}}],\"choices\":[]}", NULL, NULL},
    {"content under an escaped key", CHUNK("{\"content\":\"x\",\"c\\u006fntent\":\"y\"}"), NULL, NULL},
    {"an escaped key beside the choices", TOP("\"err\\u006fr\":{}"), NULL, NULL},
    {"another role", CHUNK("{\"role\":\"tool\",\"content\":\"x\"}"), NULL, NULL},
    {"delta is a list", CHOICE("\"delta\":[\"content\",\"x\"]"), NULL, NULL},
    {"not an object", "[{\"choices\":[{\"delta\":{\"content\":\"x\"}}]}]", NULL, NULL},
    {"something behind the object", CHUNK("{\"content\":\"x\"}") " x", NULL, NULL},
    {"two objects", CHUNK("{\"content\":\"x\"}") CHUNK("{\"content\":\"x\"}"), NULL, NULL},
    {"bad JSON far behind the text", TOP("\"x\":[1,2,{\"y\":tru}]"), NULL, NULL},
    {"bad UTF-8 in a field nobody needs", TOP("\"x\":\"\xFF\""), NULL, NULL},
    {"empty", "", NULL, NULL},
    {"HTML", "<html><body>502</body></html>", NULL, NULL},

    /* escapes */
    {"escape: newline", CHUNK("{\"content\":\"a\\nb\"}"), "a\nb", NULL},
    {"escape: quotes and slashes", CHUNK("{\"content\":\"\\\"\\\\\\/\"}"), "\"\\/", NULL},
    {"escape: pair", CHUNK("{\"content\":\"\\ud83d\\ude00\"}"), "\xF0\x9F\x98\x80", NULL},
    {"escape: half a pair", CHUNK("{\"content\":\"\\ud83d\"}"), NULL, NULL},
    {"escape: CJK", CHUNK("{\"content\":\"\\u4f60\\u597d\"}"), "\xE4\xBD\xA0\xE5\xA5\xBD", NULL},
    {"text that looks like structure", CHUNK("{\"content\":\"\\\"}}],\\\"error\\\":{}\"}"), "\"}}],\"error\":{}", NULL},
};

#define BLOCK(delta) "{\"type\":\"content_block_delta\",\"index\":0,\"delta\":" delta "}"

static const struct row anthropic[] = {
    {"message_start", "{\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\","
     "\"model\":\"m\",\"content\":[],\"stop_reason\":null,\"usage\":{\"input_tokens\":25,\"output_tokens\":1}}}", NULL, NULL},
    {"content_block_start", "{\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}",
     NULL, NULL},
    {"ping", "{\"type\":\"ping\"}", NULL, NULL},
    {"text_delta", BLOCK("{\"type\":\"text_delta\",\"text\":\"Hello\"}"), "Hello", NULL},
    {"text_delta, fields in another order",
     "{\"delta\":{\"text\":\"Hello\",\"type\":\"text_delta\"},\"index\":3,\"type\":\"content_block_delta\"}", "Hello", NULL},
    {"text_delta with an escape", BLOCK("{\"type\":\"text_delta\",\"text\":\"a\\tb\"}"), "a\tb", NULL},
    {"text_delta, empty", BLOCK("{\"type\":\"text_delta\",\"text\":\"\"}"), NULL, NULL},
    {"text_delta without text", BLOCK("{\"type\":\"text_delta\"}"), NULL, NULL},
    {"text_delta, text null", BLOCK("{\"type\":\"text_delta\",\"text\":null}"), NULL, NULL},
    {"text_delta with an empty list beside it", BLOCK("{\"type\":\"text_delta\",\"text\":\"x\",\"citations\":[]}"), "x", NULL},
    {"text_delta with more", BLOCK("{\"type\":\"text_delta\",\"text\":\"x\",\"citation\":{\"a\":1}}"), NULL, NULL},
    {"input_json_delta", BLOCK("{\"type\":\"input_json_delta\",\"partial_json\":\"{\"}"), NULL, NULL},
    {"thinking_delta", BLOCK("{\"type\":\"thinking_delta\",\"thinking\":\"hmm\"}"), NULL, NULL},
    {"signature_delta", BLOCK("{\"type\":\"signature_delta\",\"signature\":\"Eqo\"}"), NULL, NULL},
    {"citations_delta", BLOCK("{\"type\":\"citations_delta\",\"citation\":{}}"), NULL, NULL},
    {"content_block_stop", "{\"type\":\"content_block_stop\",\"index\":0}", NULL, NULL},
    {"message_delta", "{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},"
     "\"usage\":{\"output_tokens\":15}}", NULL, NULL},
    {"message_stop", "{\"type\":\"message_stop\"}", NULL, NULL},
    {"error", "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}", NULL, NULL},
    {"error beside text", "{\"type\":\"content_block_delta\",\"error\":{},\"delta\":{\"type\":\"text_delta\",\"text\":\"x\"}}",
     NULL, NULL},
    {"usage beside text", "{\"type\":\"content_block_delta\",\"usage\":{\"output_tokens\":1},\"delta\":{\"type\":\"text_delta\","
     "\"text\":\"x\"}}", NULL, NULL},
    {"without a type", "{\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"x\"}}", NULL, NULL},
    {"the type twice", "{\"type\":\"content_block_delta\",\"type\":\"ping\",\"delta\":{\"type\":\"text_delta\",\"text\":\"x\"}}",
     NULL, NULL},
    {"the text twice", BLOCK("{\"type\":\"text_delta\",\"text\":\"x\",\"text\":\"y\"}"), NULL, NULL},
    {"an escaped key", BLOCK("{\"type\":\"text_delta\",\"text\":\"x\",\"te\\u0078t\":\"y\"}"), NULL, NULL},
    {"an escaped type", BLOCK("{\"type\":\"text\\u005fdelta\",\"text\":\"x\"}"), NULL, NULL},
    {"index below zero", "{\"type\":\"content_block_delta\",\"index\":-1,\"delta\":{\"type\":\"text_delta\",\"text\":\"x\"}}",
     NULL, NULL},
    {"an OpenAI chunk", CHUNK("{\"content\":\"x\"}"), NULL, NULL},
    {"[DONE]", "[DONE]", NULL, NULL},
};
/* clang-format on */

/* One call on a copy behind which nothing may be read. */
static bool ask(bool is_anthropic, const char *event, const char *data, size_t n, struct delta *d,
                struct buf *scratch, char **copy) {
  *copy = malloc(n > 0 ? n : 1);
  memcpy(*copy, data, n);
  return is_anthropic ? delta_anthropic(event, strlen(event), *copy, n, d, scratch)
                      : delta_openai(*copy, n, d, scratch);
}

/* The same text with white space between all tokens. */
static size_t spread(const char *s, char *to) {
  bool string = false;
  size_t n = 0;
  for (; *s != '\0'; s++) {
    if (!string && strchr("{}[],:", *s) != NULL) {
      to[n++] = ' ';
      to[n++] = *s;
      to[n++] = '\n';
      continue;
    }
    if (*s == '\\')
      to[n++] = *s++;
    else if (*s == '"')
      string = !string;
    to[n++] = *s;
  }
  return n;
}

static void check_row(const struct row *row, bool is_anthropic, const char *data, size_t n,
                      const char *usage) {
  struct delta d;
  struct buf scratch;
  char *copy;
  buf_init(&scratch, 1 << 20);
  bool plain = ask(is_anthropic, "", data, n, &d, &scratch, &copy);
  if (check_that(plain == (row->text != NULL), "plain is %d", plain) && plain) {
    CHECK_BYTES(d.text, d.text_len, row->text, strlen(row->text));
    if (usage == NULL)
      CHECK(d.usage == NULL);
    else
      CHECK_BYTES(d.usage, d.usage_len, usage, strlen(usage));
    bool escaped = d.text < copy || d.text >= copy + n;
    CHECK(!escaped || d.text == scratch.data);
    CHECK(escaped || scratch.data == NULL); /* no allocation without an escape */
    CHECK(reference_is_json(data, n));
  }
  free(copy);
  buf_free(&scratch);
}

static void table(const struct row *rows, size_t count, bool is_anthropic) {
  for (size_t i = 0; i < count; i++) {
    const struct row *row = &rows[i];
    size_t n = strlen(row->data);
    check_case(row->name);
    check_row(row, is_anthropic, row->data, n, row->usage);
    char *wide = malloc(3 * n + 1);
    size_t wide_n = spread(row->data, wide);
    if (row->usage == NULL) check_row(row, is_anthropic, wide, wide_n, NULL);
    free(wide);
    for (size_t part = 0; part < n; part++) { /* a chunk cut off is never plain */
      struct delta d;
      struct buf scratch;
      char *copy;
      buf_init(&scratch, 1 << 20);
      bool plain = ask(is_anthropic, "", row->data, part, &d, &scratch, &copy);
      check_that(!plain || reference_is_json(row->data, part), "plain when cut at %zu", part);
      free(copy);
      buf_free(&scratch);
    }
  }
}

static void event_names(void) {
  static const char data[] = BLOCK("{\"type\":\"text_delta\",\"text\":\"x\"}");
  static const char *const wrong[] = {"ping", "content_block_deltax", "content_block_delt", "error",
                                      "message"};
  struct delta d;
  struct buf scratch;
  buf_init(&scratch, 100);
  check_case("anthropic: the event's name is absent or the right one");
  CHECK(delta_anthropic("", 0, data, sizeof data - 1, &d, &scratch));
  CHECK(delta_anthropic(NULL, 0, data, sizeof data - 1, &d, &scratch));
  CHECK(delta_anthropic("content_block_delta", 19, data, sizeof data - 1, &d, &scratch));
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    CHECK(!delta_anthropic(wrong[i], strlen(wrong[i]), data, sizeof data - 1, &d, &scratch));
  }
  buf_free(&scratch);
}

static void scratch_use(void) {
  static const char escaped[] = CHUNK("{\"content\":\"a\\nb\"}");
  static const char longer[] = CHUNK("{\"content\":\"\\n0123456789\"}");
  struct delta d;
  struct buf scratch;
  check_case("the scratch buffer is used over and over, and its ceiling makes a no");
  buf_init(&scratch, 11);
  for (int i = 0; i < 1000; i++) {
    CHECK(delta_openai(escaped, sizeof escaped - 1, &d, &scratch));
    CHECK_TEXT(d.text, d.text_len, "a\nb");
  }
  CHECK(!delta_openai(longer, sizeof longer - 1, &d, &scratch));
  buf_free(&scratch);
}

/* What says nothing at all need not be decoded; it still tells who it is from. */
static void silent_ones(void) {
#define FROM "\"id\":\"c-1\",\"model\":\"m/x\","
#define SILENT(delta)                                                                              \
  "{" FROM "\"choices\":[{\"index\":0,\"delta\":" delta ",\"finish_reason\":null}]}"
  static const struct {
    const char *data;
    bool silent;
    const char *id, *model;
  } rows[] = {
      {SILENT("{\"role\":\"assistant\",\"content\":\"\"}"), true, "c-1", "m/x"},
      {SILENT("{\"role\":\"assistant\",\"content\":null,\"refusal\":null}"), true, "c-1", "m/x"},
      {SILENT("{\"role\":\"assistant\"}"), true, "c-1", "m/x"},
      {SILENT("{}"), true, "c-1", "m/x"},
      {SILENT("{\"content\":\"\",\"reasoning_content\":\"\",\"tool_calls\":[]}"), true, "c-1",
       "m/x"},
      {"{\"choices\":[{\"delta\":{\"role\":\"assistant\"}}],\"usage\":null}", true, NULL, NULL},
      {"{\"id\":\"\",\"choices\":[{\"delta\":{}}]}", true, "", NULL},
      {SILENT("{\"content\":\"x\"}"), false, NULL, NULL}, /* a text */
      {SILENT("{\"role\":\"user\"}"), false, NULL, NULL},
      {SILENT("{\"reasoning\":\"hm\"}"), false, NULL, NULL},
      {SILENT("{\"content\":null,\"tool_calls\":[{\"index\":0}]}"), false, NULL, NULL},
      {SILENT("{\"audio\":{\"id\":1}}"), false, NULL, NULL},
      {SILENT("null"), false, NULL, NULL},
      {"{\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}", false, NULL, NULL},
      {"{\"choices\":[{\"index\":1,\"delta\":{}}]}", false, NULL, NULL},
      {"{\"choices\":[]}", false, NULL, NULL},
      {"{\"choices\":[{\"delta\":{}}],\"usage\":{\"prompt_tokens\":1}}", false, NULL, NULL},
      {"{\"choices\":[{\"delta\":{}}],\"error\":{\"message\":\"no\"}}", false, NULL, NULL},
      {"{\"object\":\"error\",\"choices\":[{\"delta\":{}}]}", false, NULL, NULL},
      {"{\"id\":\"a\\u0062\",\"choices\":[{\"delta\":{}}]}", false, NULL,
       NULL}, /* not as it stands */
      {"{\"id\":7,\"choices\":[{\"delta\":{}}]}", false, NULL, NULL},
      {"{\"choices\":[{\"delta\":{}}]} x", false, NULL, NULL},
      {"[DONE]", false, NULL, NULL},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    struct delta d;
    struct buf scratch;
    char *copy;
    size_t n = strlen(rows[i].data);
    check_case(rows[i].data);
    buf_init(&scratch, 1 << 20);
    bool plain = ask(false, "", rows[i].data, n, &d, &scratch, &copy);
    CHECK(!(plain && d.silent));
    CHECK(d.silent == rows[i].silent);
    CHECK((d.id != NULL && d.silent) == (rows[i].id != NULL));
    CHECK((d.model != NULL && d.silent) == (rows[i].model != NULL));
    if (d.silent && rows[i].id != NULL) CHECK_BYTES(d.id, d.id_len, rows[i].id, strlen(rows[i].id));
    if (d.silent && rows[i].model != NULL)
      CHECK_BYTES(d.model, d.model_len, rows[i].model, strlen(rows[i].model));
    free(copy);
    for (size_t part = 0; part < n; part++) {
      ask(false, "", rows[i].data, part, &d, &scratch, &copy);
      check_that(!d.silent || reference_is_json(copy, part), "silent when cut at %zu", part);
      free(copy);
    }
    buf_free(&scratch);
  }
#undef SILENT
#undef FROM
}

static uint32_t random_state = 88172645u;

static uint32_t random32(void) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 17;
  random_state ^= random_state << 5;
  return random_state;
}

/* Bytes overwritten, removed and doubled: a yes must still be valid JSON and valid text. */
static void damage(void) {
  static const char pieces[] = "{}[],:\"\\/ 019ntu\x80\xE4\x01";
  check_case("damaged chunks: yes only to valid JSON, with valid text");
  struct buf scratch;
  buf_init(&scratch, 1 << 20);
  int yes = 0;
  for (int round = 0; round < 40000; round++) {
    const struct row *row = &openai[random32() % (sizeof openai / sizeof *openai)];
    size_t n = strlen(row->data);
    if (n < 2) continue;
    char *s = malloc(n);
    memcpy(s, row->data, n);
    for (uint32_t hits = random32() % 3; hits > 0; hits--) {
      size_t at = random32() % n;
      if (random32() % 3 == 0) {
        memmove(s + at, s + at + 1, n - at - 1);
        n--;
      } else {
        s[at] = pieces[random32() % (sizeof pieces - 1)];
      }
    }
    char *exact = malloc(n);
    memcpy(exact, s, n);
    struct delta d;
    bool plain = delta_openai(exact, n, &d, &scratch);
    check_that(!d.silent || (!plain && reference_is_json(s, n)), "round %d: silent", round);
    if (plain) {
      yes++;
      check_that(reference_is_json(s, n), "round %d: not JSON: %.*s", round, (int)n, s);
      CHECK(d.text_len > 0 && utf8_valid_prefix(d.text, d.text_len) == d.text_len);
    }
    free(exact);
    free(s);
  }
  CHECK(yes > 1000);
  buf_free(&scratch);
}

int main(void) {
  table(openai, sizeof openai / sizeof *openai, false);
  table(anthropic, sizeof anthropic / sizeof *anthropic, true);
  event_names();
  scratch_use();
  silent_ones();
  damage();
  return check_done();
}
