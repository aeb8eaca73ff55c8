// Starts aimock on a free port, runs the command given with its address as the last argument, and ends
// with that command's exit code.
import { spawn } from "node:child_process";
import { LLMock } from "@copilotkit/aimock";

const mock = new LLMock({ port: 0, chunkSize: 4 });
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
