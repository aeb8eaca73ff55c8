// A collector that reads each message with OpenTelemetry's generated classes and writes it out again: what
// they do not know, or know under another type, is then missing. TAP on stdout.
import { spawn } from "node:child_process";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { isDeepStrictEqual } from "node:util";

const require = createRequire(import.meta.url);
const { opentelemetry } = require("@opentelemetry/otlp-transformer/build/src/generated/root.js");
const Request = opentelemetry.proto.collector.metrics.v1.ExportMetricsServiceRequest;

const [sluice, scenario, script] = process.argv.slice(2);
const messages = [];
const server = createServer((req, res) => {
  const chunks = [];
  req.on("data", (chunk) => chunks.push(chunk));
  req.on("end", () => {
    messages.push({ url: req.url, type: req.headers["content-type"], body: Buffer.concat(chunks).toString("utf8") });
    res.writeHead(200, { "Content-Type": "application/json" }).end("{}");
  });
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const url = `http://127.0.0.1:${server.address().port}`;
const child = spawn(sluice, ["run", "-q", `--mock=${scenario}`, "--metrics-otlp", url, script],
  { stdio: ["ignore", "ignore", "inherit"] });
const code = await new Promise((resolve) => child.on("exit", (c, signal) => resolve(signal ?? c)));
server.close();

let number = 0;
let failed = 0;
function check(name, problem) {
  number += 1;
  if (problem) failed += 1;
  console.log(`${problem ? "not ok" : "ok"} ${number} - ${name}${problem ? `\n# ${problem}` : ""}`);
}

check("the script ends well, and has sent its metrics", code !== 0 ? `it ended with ${code}` : messages.length === 0 && "nothing came");
const last = messages.at(-1);
check("to the place and in the form that OTLP names", (last?.url !== "/v1/metrics" || last?.type !== "application/json")
  && `${last?.url} ${last?.type}`);
const sent = JSON.parse(last.body);
const read = Request.fromObject(sent);
check("its types are those of the protocol", Request.verify(Request.toObject(read)));
const wire = Request.decode(Request.encode(read).finish()); // as protobuf, and back
const back = Request.toObject(wire, { longs: String, enums: Number, arrays: false });
// The first place where they differ. Protobuf does not tell an empty list from none.
function difference(a, b, path) {
  if (Array.isArray(a) && a.length === 0 && b === undefined) return null;
  if (typeof a !== "object" || typeof b !== "object") return a === b ? null : `${path}: sent ${JSON.stringify(a)}, read ${JSON.stringify(b)}`;
  for (const key of new Set([...Object.keys(a), ...Object.keys(b)])) {
    const found = difference(a[key], b[key], `${path}.${key}`);
    if (found) return found;
  }
  return null;
}
check("nothing is unknown to the protocol, nothing is lost on the wire",
  difference(sent, JSON.parse(JSON.stringify(back)), "message"));

const metrics = new Map(back.resourceMetrics[0].scopeMetrics[0].metrics.map((metric) => [metric.name, metric]));
const value = (point, key) => Object.values(point.attributes.find((a) => a.key === key)?.value ?? {})[0];
const duration = metrics.get("gen_ai.client.operation.duration")?.histogram.dataPoints
  .find((p) => value(p, "gen_ai.request.model") === "good");
check("seven calls of one model took some time", (duration?.count !== "7" || !(duration.sum > 0)) && JSON.stringify(duration));
const odd = metrics.get("odd")?.sum.dataPoints[0];
check("an odd label arrives as it was", (odd?.asDouble !== 2.5 || value(odd, "odd") !== 'a "quoted" \\ back\nslash 中文') && JSON.stringify(odd));
check("a gauge below zero", metrics.get("depth")?.gauge.dataPoints[0].asDouble !== -1.5 && "it is something else");
const failedCalls = metrics.get("gen_ai.client.operation.duration").histogram.dataPoints
  .map((p) => value(p, "error.type")).filter(Boolean).sort();
check("failures have their kind", !isDeepStrictEqual(failedCalls, ["interrupted", "overloaded"]) && failedCalls.join());
console.log(`1..${number}`);
process.exit(failed === 0 ? 0 : 1);
