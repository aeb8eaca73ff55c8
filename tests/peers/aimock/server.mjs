// Starts aimock on a free port, runs the command given with its address as the last argument, and ends
// with that command's exit code.
import { spawn } from "node:child_process";
import { LLMock } from "@copilotkit/aimock";

const mock = new LLMock({ port: 0, chunkSize: 4 });
// a loop of two rounds: both tools at once, one of which fails, then an answer that needs their results
mock.on({ userMessage: "forecast", hasToolResult: true, toolResultContains: "noon" }, { content: "Rain in Oslo at noon." });
mock.on({ userMessage: "forecast", hasToolResult: true }, { content: "The results did not arrive." });
mock.on({ userMessage: "forecast" }, {
  toolCalls: [
    { name: "get_weather", arguments: '{"city":"Oslo"}' },
    { name: "get_time", arguments: '{"zone":"CET"}' },
  ],
});
// structured output: once as asked, once wrong and then, shown why, right
const person = { name: "Ada", born: 1815, languages: ["English", "French"] };
const asTool = (value) => ({ toolCalls: [{ name: "answer", arguments: JSON.stringify(value) }] });
const wrong = { ...person, born: "long ago" };
const again = /does not fit the schema[^]*\/born/;
mock.on({ userMessage: again, responseFormat: "json_schema" }, { content: JSON.stringify(person) });
mock.on({ userMessage: "who, badly", responseFormat: "json_schema" }, { content: JSON.stringify(wrong) });
mock.on({ userMessage: "who", responseFormat: "json_schema" }, { content: JSON.stringify(person) });
mock.on({ userMessage: again, toolName: "answer" }, asTool(person));
mock.on({ userMessage: "who, badly", toolName: "answer" }, asTool(wrong));
mock.on({ userMessage: "who", toolName: "answer" }, asTool(person));
mock.onMessage("greet", { content: "Hello there! Grüß dich, 你好。" });
mock.onMessage("think", { reasoning: "First I consider it.", content: "Considered." });
mock.onMessage("weather", { toolCalls: [{ name: "get_weather", arguments: '{"city":"Paris","days":2}' }] });
mock.onMessage("two tools", {
  toolCalls: [
    { name: "get_weather", arguments: '{"city":"Oslo"}' },
    { name: "get_time", arguments: '{"zone":"UTC"}' },
  ],
});
mock.onMessage("limited", { error: { message: "slow down", type: "rate_limit_error", code: "rate_limit_exceeded" }, status: 429 });
mock.onMessage("refused", { error: { message: "no such key", type: "authentication_error" }, status: 401 });
mock.onMessage("cut", { content: "This answer is long enough to be cut in the middle of it." }, { latency: 20, truncateAfterChunks: 5 });
await mock.start();

const [command, ...args] = process.argv.slice(2);
const child = spawn(command, [...args, mock.url], { stdio: "inherit" });
child.on("exit", async (code, signal) => {
  await mock.stop();
  process.exit(signal ? 1 : code);
});
