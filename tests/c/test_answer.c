/*
** base/answer: whole replies of providers, and near misses. As for deltas: yes must mean valid
** JSON, these values, and nothing else of meaning; a body cut off anywhere is a no.
*/
#include <stdlib.h>

#include "base/answer.h"
#include "base/utf8.h"

#include "check.h"
#include "json_reference.h"

struct row {
  const char *name, *body;
  const char *text; /* NULL: not plain */
  const char *id, *model, *finish;
  int64_t input, output, total, cached, reasoning; /* -1: not said; usage is there when input is */
};

/* clang-format off */
#define NO NULL, NULL, NULL, NULL, -1, -1, -1, -1, -1
#define NO_USAGE -1, -1, -1, -1, -1
#define REPLY(message, more) "{\"id\":\"c1\",\"object\":\"chat.completion\",\"created\":1763654321,\"model\":\"m\"," \
  "\"choices\":[{\"index\":0,\"message\":" message ",\"finish_reason\":\"stop\"}]" more "}"
#define HI "{\"role\":\"assistant\",\"content\":\"hi\"}"
#define USAGE(fields) REPLY(HI, ",\"usage\":{" fields "}")

static const struct row openai[] = {
    {"openai: as documented",
     "{\n  \"id\": \"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT\",\n  \"object\": \"chat.completion\",\n  \"created\": 1741569952,\n"
     "  \"model\": \"gpt-5\",\n  \"choices\": [\n    {\n      \"index\": 0,\n      \"message\": {\n        \"role\": \"assistant\",\n"
     "        \"content\": \"Hello! How can I assist you today?\",\n        \"refusal\": null,\n        \"annotations\": []\n      },\n"
     "      \"logprobs\": null,\n      \"finish_reason\": \"stop\"\n    }\n  ],\n  \"usage\": {\n    \"prompt_tokens\": 19,\n"
     "    \"completion_tokens\": 10,\n    \"total_tokens\": 29,\n    \"prompt_tokens_details\": {\n      \"cached_tokens\": 4,\n"
     "      \"audio_tokens\": 0\n    },\n    \"completion_tokens_details\": {\n      \"reasoning_tokens\": 3,\n"
     "      \"accepted_prediction_tokens\": 0\n    }\n  },\n  \"service_tier\": \"default\"\n}\n",
     "Hello! How can I assist you today?", "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT", "gpt-5", "stop", 19, 10, 29, 4, 3},
    {"no usage", REPLY(HI, ""), "hi", "c1", "m", "stop", NO_USAGE},
    {"usage null", REPLY(HI, ",\"usage\":null"), "hi", "c1", "m", "stop", NO_USAGE},
    {"usage empty", USAGE(""), "hi", "c1", "m", "stop", NO_USAGE},
    {"usage all null", USAGE("\"prompt_tokens\":null,\"completion_tokens\":null,\"total_tokens\":null"),
     "hi", "c1", "m", "stop", NO_USAGE},
    {"total absent", USAGE("\"prompt_tokens\":2,\"completion_tokens\":3"), "hi", "c1", "m", "stop", 2, 3, 5, -1, -1},
    {"total of its own mind", USAGE("\"prompt_tokens\":2,\"completion_tokens\":3,\"total_tokens\":9"),
     "hi", "c1", "m", "stop", 2, 3, 9, -1, -1},
    {"zeros are counts", USAGE("\"prompt_tokens\":0,\"completion_tokens\":0,\"total_tokens\":0,"
     "\"prompt_tokens_details\":{\"cached_tokens\":0}"), "hi", "c1", "m", "stop", 0, 0, 0, 0, -1},
    {"details null", USAGE("\"prompt_tokens\":2,\"completion_tokens\":3,\"prompt_tokens_details\":null,"
     "\"completion_tokens_details\":null"), "hi", "c1", "m", "stop", 2, 3, 5, -1, -1},
    {"deepseek, siliconflow: cache hits", USAGE("\"prompt_tokens\":20,\"completion_tokens\":3,\"total_tokens\":23,"
     "\"prompt_cache_hit_tokens\":16,\"prompt_cache_miss_tokens\":4"), "hi", "c1", "m", "stop", 20, 3, 23, 16, -1},
    {"moonshot: cached_tokens", USAGE("\"prompt_tokens\":20,\"completion_tokens\":3,\"cached_tokens\":7"),
     "hi", "c1", "m", "stop", 20, 3, 23, 7, -1},
    {"the details win over the vendors' fields", USAGE("\"cached_tokens\":1,\"prompt_cache_hit_tokens\":2,\"prompt_tokens\":9,"
     "\"prompt_tokens_details\":{\"cached_tokens\":3},\"completion_tokens\":1,\"reasoning_tokens\":8,"
     "\"completion_tokens_details\":{\"reasoning_tokens\":1}"), "hi", "c1", "m", "stop", 9, 1, 10, 3, 1},
    {"cache hits win over cached_tokens", USAGE("\"cached_tokens\":1,\"prompt_cache_hit_tokens\":2,\"prompt_tokens\":9,"
     "\"completion_tokens\":1"), "hi", "c1", "m", "stop", 9, 1, 10, 2, -1},
    {"reasoning_tokens beside the others", USAGE("\"prompt_tokens\":9,\"completion_tokens\":5,\"reasoning_tokens\":4"),
     "hi", "c1", "m", "stop", 9, 5, 14, -1, 4},
    {"the largest count", USAGE("\"prompt_tokens\":9007199254740992,\"completion_tokens\":0"),
     "hi", "c1", "m", "stop", INT64_C(9007199254740992), 0, INT64_C(9007199254740992), -1, -1},
    {"content empty", REPLY("{\"role\":\"assistant\",\"content\":\"\"}", ""), "", "c1", "m", "stop", NO_USAGE},
    {"escapes and characters", REPLY("{\"content\":\"\\u4f60\xE5\xA5\xBD\\n\\ud83d\\ude00\"}", ""),
     "\xE4\xBD\xA0\xE5\xA5\xBD\n\xF0\x9F\x98\x80", "c1", "m", "stop", NO_USAGE},
    {"nothing but the needful", "{\"choices\":[{\"message\":{\"content\":\"x\"},\"finish_reason\":\"length\"}]}",
     "x", NULL, NULL, "length", NO_USAGE},
    {"id and model null or empty", "{\"id\":null,\"model\":\"\",\"choices\":[{\"message\":{\"content\":\"x\"},"
     "\"finish_reason\":\"length\"}]}", "x", NULL, NULL, "length", NO_USAGE},
    {"tool calls and reasoning there but empty", REPLY("{\"role\":\"assistant\",\"content\":\"hi\",\"reasoning_content\":\"\","
     "\"reasoning\":null,\"tool_calls\":[],\"function_call\":null,\"refusal\":\"\"}", ""), "hi", "c1", "m", "stop", NO_USAGE},

    {"reasoning", REPLY("{\"role\":\"assistant\",\"content\":\"hi\",\"reasoning_content\":\"hmm\"}", ""), NO},
    {"refusal", REPLY("{\"role\":\"assistant\",\"content\":null,\"refusal\":\"no\"}", ""), NO},
    {"refusal beside text", REPLY("{\"content\":\"x\",\"refusal\":\"no\"}", ""), NO},
    {"tool call", REPLY("{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"a\"}]}", ""), NO},
    {"tool call beside text", REPLY("{\"content\":\"x\",\"tool_calls\":[{\"id\":\"a\"}]}", ""), NO},
    {"content a list", REPLY("{\"content\":[{\"type\":\"text\",\"text\":\"x\"}]}", ""), NO},
    {"content absent", REPLY("{\"role\":\"assistant\"}", ""), NO},
    {"something unknown in the message", REPLY("{\"content\":\"x\",\"audio\":{\"data\":\"\"}}", ""), NO},
    {"log probabilities", "{\"choices\":[{\"message\":{\"content\":\"x\"},\"logprobs\":{},\"finish_reason\":\"stop\"}]}", NO},
    {"two choices", "{\"choices\":[{\"message\":{\"content\":\"x\"},\"finish_reason\":\"stop\"},{\"index\":1}]}", NO},
    {"another choice", "{\"choices\":[{\"index\":1,\"message\":{\"content\":\"x\"},\"finish_reason\":\"stop\"}]}", NO},
    {"no choices", "{\"choices\":[]}", NO},
    {"choices null", "{\"choices\":null}", NO},
    {"a delta where a message belongs", "{\"choices\":[{\"delta\":{\"content\":\"x\"},\"message\":{\"content\":\"x\"},"
     "\"finish_reason\":\"stop\"}]}", NO},
    {"finish reason null", "{\"choices\":[{\"message\":{\"content\":\"x\"},\"finish_reason\":null}]}", NO},
    {"finish reason absent", "{\"choices\":[{\"message\":{\"content\":\"x\"}}]}", NO},
    {"finish reason empty", "{\"choices\":[{\"message\":{\"content\":\"x\"},\"finish_reason\":\"\"}]}", NO},
    {"finish reason with an escape", "{\"choices\":[{\"message\":{\"content\":\"x\"},\"finish_reason\":\"st\\u006fp\"}]}", NO},
    {"model with an escape", "{\"model\":\"a\\/b\",\"choices\":[{\"message\":{\"content\":\"x\"},\"finish_reason\":\"stop\"}]}", NO},
    {"id a number", "{\"id\":5,\"choices\":[{\"message\":{\"content\":\"x\"},\"finish_reason\":\"stop\"}]}", NO},
    {"error", "{\"error\":{\"message\":\"m\",\"type\":\"invalid_request_error\"}}", NO},
    {"error beside an answer", REPLY(HI, ",\"error\":{}"), NO},
    {"error in the choice", "{\"choices\":[{\"error\":{},\"message\":{\"content\":\"x\"},\"finish_reason\":\"stop\"}]}", NO},
    {"vllm: object error", "{\"object\":\"error\",\"message\":\"m\",\"code\":400}", NO},
    {"siliconflow: code and message", "{\"code\":20012,\"message\":\"Model does not exist.\",\"data\":null}", NO},
    {"siliconflow: a bare string", "\"Invalid token\"", NO},
    {"choices twice", "{\"choices\":[{\"message\":{\"content\":\"x\"},\"finish_reason\":\"stop\"}],\"choices\":null}", NO},
    {"content twice", REPLY("{\"content\":\"x\",\"content\":\"y\"}", ""), NO},
    {"usage twice", REPLY(HI, ",\"usage\":null,\"usage\":null"), NO},
    {"a count twice", USAGE("\"prompt_tokens\":1,\"prompt_tokens\":2,\"completion_tokens\":3"), NO},
    {"a count as a float", USAGE("\"prompt_tokens\":1.0,\"completion_tokens\":3"), NO},
    {"a count as a string", USAGE("\"prompt_tokens\":\"1\",\"completion_tokens\":3"), NO},
    {"a count below zero", USAGE("\"prompt_tokens\":-1,\"completion_tokens\":3"), NO},
    {"a count beyond all sense", USAGE("\"prompt_tokens\":9007199254740993,\"completion_tokens\":3"), NO},
    {"a count beyond int64", USAGE("\"prompt_tokens\":99999999999999999999,\"completion_tokens\":3"), NO},
    {"only one of the counts", USAGE("\"completion_tokens\":3"), NO},
    {"only a total", USAGE("\"total_tokens\":3"), NO},
    {"details not an object", USAGE("\"prompt_tokens\":1,\"completion_tokens\":3,\"prompt_tokens_details\":[]"), NO},
    {"a cached count as a float", USAGE("\"prompt_tokens\":1,\"completion_tokens\":3,\"prompt_tokens_details\":"
     "{\"cached_tokens\":0.5}"), NO},
    {"a cached count twice", USAGE("\"prompt_tokens\":1,\"completion_tokens\":3,\"prompt_tokens_details\":"
     "{\"cached_tokens\":0,\"cached_tokens\":1}"), NO},
    {"usage a list", REPLY(HI, ",\"usage\":[]"), NO},
    {"an escaped key", REPLY(HI, ",\"us\\u0061ge\":{}"), NO},
    {"bad UTF-8 in the text", REPLY("{\"content\":\"\xFF\"}", ""), NO},
    {"bad UTF-8 elsewhere", REPLY(HI, ",\"x\":\"\xC0\x80\""), NO},
    {"half a surrogate pair", REPLY("{\"content\":\"\\ud83d\"}", ""), NO},
    {"bad JSON behind the answer", REPLY(HI, ",\"x\":01"), NO},
    {"something behind the body", REPLY(HI, "") "{}", NO},
    {"HTML", "<!doctype html><title>502 Bad Gateway</title>", NO},
    {"empty", "", NO},
};

#define MESSAGE(content, more) "{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"claude\"," \
  "\"content\":" content ",\"stop_reason\":\"end_turn\",\"stop_sequence\":null" more "}"
#define TEXT "[{\"type\":\"text\",\"text\":\"hi\"}]"
#define AUSAGE(fields) MESSAGE(TEXT, ",\"usage\":{" fields "}")

static const struct row anthropic[] = {
    {"anthropic: as documented", MESSAGE(TEXT, ",\"stop_details\":null,\"usage\":{\"input_tokens\":2095,\"output_tokens\":503,"
     "\"cache_creation_input_tokens\":51,\"cache_read_input_tokens\":100,\"cache_creation\":{\"ephemeral_5m_input_tokens\":51},"
     "\"output_tokens_details\":{\"thinking_tokens\":20},\"service_tier\":\"standard\"}"),
     "hi", "msg_1", "claude", "end_turn", 2246, 503, 2749, 100, 20},
    {"without caches", AUSAGE("\"input_tokens\":5,\"output_tokens\":6"), "hi", "msg_1", "claude", "end_turn", 5, 6, 11, -1, -1},
    {"caches null", AUSAGE("\"cache_creation_input_tokens\":null,\"cache_read_input_tokens\":null,\"input_tokens\":5,"
     "\"output_tokens\":6,\"output_tokens_details\":null"), "hi", "msg_1", "claude", "end_turn", 5, 6, 11, -1, -1},
    {"cache read zero", AUSAGE("\"cache_read_input_tokens\":0,\"input_tokens\":5,\"output_tokens\":6"),
     "hi", "msg_1", "claude", "end_turn", 5, 6, 11, 0, -1},
    {"no usage", MESSAGE(TEXT, ""), "hi", "msg_1", "claude", "end_turn", NO_USAGE},
    {"citations null", MESSAGE("[{\"citations\":null,\"type\":\"text\",\"text\":\"a\\nb\"}]", ""),
     "a\nb", "msg_1", "claude", "end_turn", NO_USAGE},
    {"a stop sequence", "{\"content\":[{\"type\":\"text\",\"text\":\"x\"}],\"stop_reason\":\"stop_sequence\",\"stop_sequence\":"
     "\"END\"}", "x", NULL, NULL, "stop_sequence", NO_USAGE},

    {"citations", MESSAGE("[{\"type\":\"text\",\"text\":\"x\",\"citations\":[{\"a\":1}]}]", ""), NO},
    {"two blocks", MESSAGE("[{\"type\":\"text\",\"text\":\"x\"},{\"type\":\"text\",\"text\":\"y\"}]", ""), NO},
    {"no block", MESSAGE("[]", ""), NO},
    {"thinking", MESSAGE("[{\"type\":\"thinking\",\"thinking\":\"h\",\"signature\":\"s\"},{\"type\":\"text\",\"text\":\"x\"}]", ""), NO},
    {"tool use", MESSAGE("[{\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"f\",\"input\":{}}]", ""), NO},
    {"a string for content", MESSAGE("\"x\"", ""), NO},
    {"no stop reason", "{\"content\":[{\"type\":\"text\",\"text\":\"x\"}],\"stop_reason\":null}", NO},
    {"the words of a refusal", MESSAGE(TEXT, ",\"stop_details\":{\"explanation\":\"no\"}"), NO},
    {"error", "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}", NO},
    {"another type", "{\"type\":\"completion\",\"content\":[{\"type\":\"text\",\"text\":\"x\"}],\"stop_reason\":\"end_turn\"}", NO},
    {"another role", "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"x\"}],\"stop_reason\":\"end_turn\"}", NO},
    {"error beside content", MESSAGE(TEXT, ",\"error\":{}"), NO},
    {"only output", AUSAGE("\"output_tokens\":6"), NO},
    {"only a cache", AUSAGE("\"cache_creation_input_tokens\":6"), NO},
    {"a count as a float", AUSAGE("\"input_tokens\":5.0,\"output_tokens\":6"), NO},
    {"an OpenAI reply", REPLY(HI, ""), NO},
};
/* clang-format on */

static bool ask(bool is_anthropic, const char *body, size_t n, struct answer *a,
                struct buf *scratch, char **copy) {
  *copy = malloc(n > 0 ? n : 1);
  memcpy(*copy, body, n);
  return is_anthropic ? answer_anthropic(*copy, n, a, scratch)
                      : answer_openai(*copy, n, a, scratch);
}

static void check_word(const char *what, const char *got, size_t len, const char *want) {
  if (want == NULL) {
    check_that(got == NULL && len == 0, "%s is there", what);
  } else {
    check_that(got != NULL && len == strlen(want) && memcmp(got, want, len) == 0, "%s is %.*s",
               what, (int)len, got == NULL ? "" : got);
  }
}

static void table(const struct row *rows, size_t count, bool is_anthropic) {
  struct answer a;
  struct buf scratch;
  char *copy;
  for (size_t i = 0; i < count; i++) {
    const struct row *row = &rows[i];
    size_t n = strlen(row->body);
    check_case(row->name);
    buf_init(&scratch, 1 << 20);
    bool plain = ask(is_anthropic, row->body, n, &a, &scratch, &copy);
    if (check_that(plain == (row->text != NULL), "plain is %d", plain) && plain) {
      CHECK(reference_is_json(row->body, n));
      CHECK_BYTES(a.text, a.text_len, row->text, strlen(row->text));
      check_word("id", a.id, a.id_len, row->id);
      check_word("model", a.model, a.model_len, row->model);
      check_word("finish", a.finish_reason, a.finish_reason_len, row->finish);
      CHECK_INT(a.has_usage, row->input >= 0);
      CHECK_INT(a.input_tokens, row->input);
      CHECK_INT(a.output_tokens, row->output);
      CHECK_INT(a.total_tokens, row->total);
      CHECK_INT(a.cached_tokens, row->cached);
      CHECK_INT(a.reasoning_tokens, row->reasoning);
    }
    free(copy);
    for (size_t part = 0; part < n; part++) {
      plain = ask(is_anthropic, row->body, part, &a, &scratch, &copy);
      check_that(!plain || reference_is_json(row->body, part), "plain when cut at %zu", part);
      free(copy);
    }
    buf_free(&scratch);
  }
}

static void large(void) {
  static const char head[] = "{\"choices\":[{\"message\":{\"content\":\"";
  static const char tail[] = "\"},\"finish_reason\":\"stop\"}]}";
  enum { PIECES = 1 << 20 };
  check_case("eleven megabytes of text, with escapes and without");
  for (int escaped = 0; escaped < 2; escaped++) {
    const char *piece = escaped ? "\xE4\xBD\xA0 word\\n" : "\xE4\xBD\xA0 word..";
    size_t len = strlen(piece), n = 0;
    char *body = malloc(sizeof head + sizeof tail + PIECES * len);
    memcpy(body, head, sizeof head - 1);
    n += sizeof head - 1;
    for (size_t i = 0; i < PIECES; i++, n += len) memcpy(body + n, piece, len);
    memcpy(body + n, tail, sizeof tail - 1);
    n += sizeof tail - 1;
    struct answer a;
    struct buf scratch;
    buf_init(&scratch, 64 << 20);
    CHECK(answer_openai(body, n, &a, &scratch));
    CHECK_INT(a.text_len, PIECES * (len - (size_t)escaped));
    buf_free(&scratch);
    buf_init(&scratch, 1000);
    CHECK(answer_openai(body, n, &a, &scratch) == !escaped); /* no room: the caller decides */
    buf_free(&scratch);
    free(body);
  }
}

int main(void) {
  table(openai, sizeof openai / sizeof *openai, false);
  table(anthropic, sizeof anthropic / sizeof *anthropic, true);
  large();
  return check_done();
}
