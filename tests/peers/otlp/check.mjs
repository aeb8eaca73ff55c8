// Reads each line as TracesData and writes it back: what the messages do not know, or know as another type, is
// gone then, or differs.
import assert from "node:assert";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const root = require("./node_modules/@opentelemetry/otlp-transformer/build/src/generated/root.js");
// the exporter only knows the request that carries them: the same one field
const Message = root.opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest;

// ids are hexadecimal in OTLP's JSON, base64 in that of Protocol Buffers
const IDS = ["traceId", "spanId", "parentSpanId"];
function ids(span, from, to) {
  for (const name of IDS) if (name in span) span[name] = Buffer.from(span[name], from).toString(to);
}

let spans = 0;
const names = new Map();
for (const line of readFileSync(process.argv[2], "utf8").trimEnd().split("\n")) {
  const written = JSON.parse(line);
  const sent = structuredClone(written);
  const every = (data, f) => data.resourceSpans.forEach((r) => r.scopeSpans.forEach((s) => s.spans.forEach(f)));
  every(sent, (span) => ids(span, "hex", "base64"));
  const message = Message.fromObject(sent);
  assert.equal(Message.verify(message), null);
  const again = Message.toObject(Message.decode(Message.encode(message).finish()),
    { longs: String, bytes: String });
  every(again, (span) => ids(span, "base64", "hex"));
  assert.deepStrictEqual(JSON.parse(JSON.stringify(again)), clean(written));
  every(written, (span) => {
    spans += 1;
    names.set(span.name, (names.get(span.name) ?? 0) + 1);
    assert.equal(span.traceId.length, 32);
    assert.equal(span.spanId.length, 16);
  });
}

// what the messages leave out because it says nothing: empty lists
function clean(value) {
  if (Array.isArray(value)) return value.map(clean);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value)
    .filter(([, v]) => !(Array.isArray(v) && v.length === 0)).map(([k, v]) => [k, clean(v)]));
}

for (const name of ["chat flaky", "attempt 1", "attempt 2", "wait backoff", "wait place", "hedged", "chat slow",
  "chat cut", "fallback"]) assert.ok(names.has(name), `no span "${name}" among ${[...names.keys()]}`);
console.log(`otlp: ${spans} spans, read as OpenTelemetry's own messages and written back the same`);
