// The official SDKs against `sluice mock`. Prints TAP.
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import OpenAI from "openai";
import Anthropic from "@anthropic-ai/sdk";

const mock = spawn(process.argv[2], ["mock", "--pace", "0", "--port", "0"], { stdio: ["ignore", "pipe", "inherit"] });
const url = await new Promise((found, failed) => {
  mock.on("exit", (code) => failed(new Error(`sluice mock ended with ${code}`)));
  createInterface({ input: mock.stdout }).on("line", (line) => {
    const match = line.match(/http:\/\/[\d.:]+/);
    if (match) found(match[0]);
  });
});

let count = 0, failures = 0;
async function test(name, f) {
  count++;
  try {
    await f();
    console.log(`ok ${count} - ${name}`);
  } catch (err) {
    failures++;
    console.log(`not ok ${count} - ${name}\n# ${String(err.stack ?? err).replaceAll("\n", "\n# ")}`);
  }
}
function check(condition, what) {
  if (!condition) throw new Error(what);
}

const tool = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const openai = new OpenAI({ apiKey: "k", baseURL: `${url}/v1`, maxRetries: 0 });
const anthropic = new Anthropic({ apiKey: "k", baseURL: url, maxRetries: 0 });
const user = [{ role: "user", content: "Why is the sky blue?" }];

await test("openai: a whole answer", async () => {
  const reply = await openai.chat.completions.create({ model: "mock", messages: user });
  check(reply.choices[0].message.content.length > 10, "text");
  check(reply.choices[0].finish_reason === "stop", "finish_reason");
  check(reply.usage.total_tokens === reply.usage.prompt_tokens + reply.usage.completion_tokens, "usage adds up");
});

await test("openai: a streamed answer, through the SDK's own accumulator", async () => {
  const stream = openai.chat.completions.stream({ model: "mock", messages: user, stream_options: { include_usage: true } });
  let pieces = 0;
  stream.on("content", () => pieces++);
  const final = await stream.finalChatCompletion();
  check(pieces > 3, "several pieces");
  check(final.choices[0].finish_reason === "stop", "finish_reason");
  check(final.usage.completion_tokens > 0, "usage");
});

await test("openai: a tool call, streamed", async () => {
  const stream = openai.chat.completions.stream({
    model: "mock", messages: user, tool_choice: "required",
    tools: [{ type: "function", function: { name: "get_weather", parameters: tool } }],
  });
  const final = await stream.finalChatCompletion();
  const call = final.choices[0].message.tool_calls[0];
  check(call.function.name === "get_weather", "name");
  check(typeof JSON.parse(call.function.arguments).city === "string", "arguments fit the schema");
  check(final.choices[0].finish_reason === "tool_calls", "finish_reason");
});

await test("openai: an error has status, code and message", async () => {
  const err = await openai.chat.completions.create({ model: "mock-429", messages: user }).catch((e) => e);
  check(err instanceof OpenAI.RateLimitError, `RateLimitError, got ${err?.constructor?.name}`);
  const bad = await openai.chat.completions.create({ model: "mock", messages: [] }).catch((e) => e);
  check(bad instanceof OpenAI.BadRequestError, `BadRequestError, got ${bad?.constructor?.name}`);
});

await test("openai: the list of models", async () => {
  const ids = [];
  for await (const model of openai.models.list()) ids.push(model.id);
  check(ids.includes("mock"), ids.join(" "));
});

const ask = { model: "mock", max_tokens: 200, messages: user };

await test("anthropic: a whole answer", async () => {
  const reply = await anthropic.messages.create(ask);
  check(reply.content[0].type === "text" && reply.content[0].text.length > 10, "text");
  check(reply.stop_reason === "end_turn", "stop_reason");
  check(reply.usage.output_tokens > 0, "usage");
});

await test("anthropic: a streamed answer, through the SDK's own accumulator", async () => {
  const stream = anthropic.messages.stream(ask);
  let pieces = 0;
  stream.on("text", () => pieces++);
  const final = await stream.finalMessage();
  check(pieces > 3, "several pieces");
  check(final.stop_reason === "end_turn", "stop_reason");
});

await test("anthropic: a tool call, streamed", async () => {
  const stream = anthropic.messages.stream({
    ...ask, tools: [{ name: "get_weather", input_schema: tool }], tool_choice: { type: "tool", name: "get_weather" },
  });
  const final = await stream.finalMessage();
  const block = final.content.find((b) => b.type === "tool_use");
  check(block?.name === "get_weather" && typeof block.input.city === "string", JSON.stringify(final.content));
  check(final.stop_reason === "tool_use", "stop_reason");
});

await test("anthropic: an error has its type", async () => {
  const err = await anthropic.messages.create({ ...ask, model: "mock-429" }).catch((e) => e);
  check(err instanceof Anthropic.RateLimitError, `RateLimitError, got ${err?.constructor?.name}`);
});

await test("anthropic: counting tokens", async () => {
  const { input_tokens } = await anthropic.messages.countTokens({ model: "mock", messages: user });
  check(Number.isInteger(input_tokens) && input_tokens > 0, String(input_tokens));
});

console.log(`1..${count}`);
mock.removeAllListeners("exit");
mock.kill("SIGTERM");
mock.on("exit", () => process.exit(failures ? 1 : 0));
