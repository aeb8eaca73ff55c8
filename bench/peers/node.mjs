// The same work as bench/bare.c, done the way a Node program would do it.
// usage: node node.mjs undici|fetch|openai ask|stream|paced|init|idle key=value…
// Modules are found from the folder named by BENCH_MODULES (build/bench; see bench/install-peers).
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';

const require = createRequire((process.env.BENCH_MODULES ?? '.') + '/');
const [client, mode, ...rest] = process.argv.slice(2);
const args = { port: 0, n: 10000, concurrency: 1, streams: 500, gap: 100, delay: 1000 };
for (const arg of rest) {
  const m = /^(\w+)=(\d+)$/.exec(arg);
  if (!m || !(m[1] in args)) throw new Error(`unknown argument ${arg}`);
  args[m[1]] = Number(m[2]);
}

const base = `http://127.0.0.1:${args.port}/v1`;
const prompt = 'Why is the sky blue?';
const headers = { 'content-type': 'application/json', accept: 'application/json', authorization: 'Bearer bench-key' };
const request = (model, stream) => ({
  model, messages: [{ role: 'user', content: prompt }],
  ...(stream ? { stream: true, stream_options: { include_usage: true } } : {}),
});

/** Splits bytes into server-sent events, decodes each, and calls text() with what the deltas say. */
async function readEvents(chunks, text) {
  const decoder = new TextDecoder();
  let rest = '';
  for await (const bytes of chunks) {
    rest += decoder.decode(bytes, { stream: true });
    let from = 0, end;
    while ((end = rest.indexOf('\n', from)) >= 0) {
      const line = rest.slice(from, end);
      from = end + 1;
      if (!line.startsWith('data: ') || line === 'data: [DONE]') continue;
      const content = JSON.parse(line.slice(6)).choices[0]?.delta.content;
      if (content) text(content);
    }
    rest = rest.slice(from);
  }
}

const clients = {
  undici() {
    const { Agent, request: send } = require('undici');
    const dispatcher = new Agent({ pipelining: 1, headersTimeout: 0, bodyTimeout: 0 });
    const post = async (body) => {
      const r = await send(`${base}/chat/completions`, { method: 'POST', headers, body: JSON.stringify(body), dispatcher });
      if (r.statusCode !== 200) throw new Error(`status ${r.statusCode}`);
      return r.body;
    };
    return {
      ask: async (model) => (await post(request(model, false))).json(),
      stream: async (model, text) => readEvents(await post(request(model, true)), text),
    };
  },
  fetch() {
    const post = async (body) => {
      const r = await fetch(`${base}/chat/completions`, { method: 'POST', headers, body: JSON.stringify(body) });
      if (r.status !== 200) throw new Error(`status ${r.status}`);
      return r;
    };
    return {
      ask: async (model) => (await post(request(model, false))).json(),
      stream: async (model, text) => readEvents((await post(request(model, true))).body, text),
    };
  },
  openai() {
    const { OpenAI } = require('openai');
    const sdk = new OpenAI({ baseURL: base, apiKey: 'bench-key', maxRetries: 0, timeout: 3600_000 });
    return {
      ask: (model) => sdk.chat.completions.create(request(model, false)),
      async stream(model, text) {
        for await (const chunk of await sdk.chat.completions.create(request(model, true))) {
          const content = chunk.choices[0]?.delta.content;
          if (content) text(content);
        }
      },
    };
  },
};

const cpuUs = () => { const u = process.cpuUsage(); return u.user + u.system; };
const kib = (name) => Number(new RegExp(`${name}:\\s*(\\d+)`).exec(readFileSync('/proc/self/status', 'utf8'))[1]);
const report = (fields) => console.log(JSON.stringify({ client, mode, ...fields, maxrss_kib: kib('VmHWM') }));
const byteLength = (s) => Buffer.byteLength(s);

async function ask(api, n, concurrency) {
  let left = n, texts = 0;
  await Promise.all(Array.from({ length: Math.min(n, concurrency) }, async () => {
    while (left-- > 0) {
      const reply = await api.ask('bench');
      if (reply.usage.completion_tokens !== 32) throw new Error('not a whole reply');
      texts += byteLength(reply.choices[0].message.content);
    }
  }));
  return texts;
}

async function stream(api, n) {
  let deltas = 0, bytes = 0;
  await api.stream(`bench-n${n}`, (text) => { deltas++; bytes += byteLength(text); });
  if (deltas !== n) throw new Error(`${deltas} of ${n} deltas`);
  return bytes;
}

const modes = {
  async ask(api) {
    await ask(api, Math.max(2000, 2 * args.concurrency), args.concurrency); // connections, and the compiler
    const wall = performance.now(), cpu = cpuUs();
    const bytes = await ask(api, args.n, args.concurrency);
    report({ n: args.n, cpu_us_per_unit: (cpuUs() - cpu) / args.n, wall_s: (performance.now() - wall) / 1e3, text_bytes: bytes });
  },
  async stream(api) {
    await stream(api, 9600);
    const wall = performance.now(), cpu = cpuUs();
    const bytes = await stream(api, args.n);
    report({ n: args.n, cpu_us_per_unit: (cpuUs() - cpu) / args.n, wall_s: (performance.now() - wall) / 1e3, text_bytes: bytes });
  },
  async paced(api) {
    await stream(api, 3200);
    const { streams, n, gap, delay } = args;
    const before = kib('VmRSS'), from = streams, to = streams * (n - 1);
    let seen = 0, bytes = 0, cpuFrom = 0, cpuTo = 0;
    const text = (s) => {
      seen++;
      bytes += byteLength(s);
      if (seen === from) cpuFrom = cpuUs();
      else if (seen === to) cpuTo = cpuUs();
    };
    const wall = performance.now();
    await Promise.all(Array.from({ length: streams }, () => api.stream(`bench-n${n}-gap${gap}-delay${delay}`, text)));
    if (seen !== streams * n) throw new Error(`${seen} of ${streams * n} deltas`);
    report({ n: seen, streams, cpu_us_per_unit: (cpuTo - cpuFrom) / (to - from), wall_s: (performance.now() - wall) / 1e3,
      text_bytes: bytes, kib_per_stream: (kib('VmHWM') - before) / streams });
  },
  async init() { console.log('ready'); },
  async idle() {
    await new Promise((done) => setTimeout(done, 50));
    report({ rss_kib: kib('VmRSS') });
  },
};

if (!clients[client] || !modes[mode]) throw new Error('usage: node.mjs undici|fetch|openai ask|stream|paced|init|idle');
await modes[mode](clients[client]());
process.exit(0);
