"""The same work as bench/bare.c, done the way a Python program would do it.

usage: python.py aiohttp|httpx ask|stream|paced|init|idle key=value...
"""
import asyncio
import json
import re
import sys
import time

client, mode = sys.argv[1:3]
args = dict(port=0, n=10000, concurrency=1, streams=500, gap=100, delay=1000)
for arg in sys.argv[3:]:
    key, _, value = arg.partition("=")
    if key not in args or not value.isdigit():
        sys.exit(f"unknown argument {arg}")
    args[key] = int(value)

URL = f"http://127.0.0.1:{args['port']}/v1/chat/completions"
HEADERS = {"content-type": "application/json", "accept": "application/json",
           "authorization": "Bearer bench-key"}
PROMPT = "Why is the sky blue?"


def request(model, stream):
    body = {"model": model, "messages": [{"role": "user", "content": PROMPT}]}
    if stream:
        body.update(stream=True, stream_options={"include_usage": True})
    return json.dumps(body, separators=(",", ":")).encode()


def text_of(line):
    """The text of one line of a stream, or None."""
    if not line.startswith("data: ") or line == "data: [DONE]":
        return None
    choices = json.loads(line[6:])["choices"]
    return choices[0]["delta"].get("content") if choices else None


class Aiohttp:
    def __init__(self):
        import aiohttp
        self.aiohttp = aiohttp

    async def __aenter__(self):
        self.session = self.aiohttp.ClientSession(
            connector=self.aiohttp.TCPConnector(limit=0), headers=HEADERS,
            timeout=self.aiohttp.ClientTimeout(total=None))
        return self

    async def __aexit__(self, *_):
        await self.session.close()

    async def ask(self, model):
        async with self.session.post(URL, data=request(model, False)) as response:
            response.raise_for_status()
            return await response.json()

    async def stream(self, model, text):
        async with self.session.post(URL, data=request(model, True)) as response:
            response.raise_for_status()
            async for line in response.content:
                piece = text_of(line.decode().rstrip("\n"))
                if piece:
                    text(piece)


class Httpx:
    def __init__(self):
        import httpx
        self.httpx = httpx

    async def __aenter__(self):
        self.session = self.httpx.AsyncClient(
            headers=HEADERS, timeout=None,
            limits=self.httpx.Limits(max_connections=None, max_keepalive_connections=None))
        return self

    async def __aexit__(self, *_):
        await self.session.aclose()

    async def ask(self, model):
        response = await self.session.post(URL, content=request(model, False))
        response.raise_for_status()
        return response.json()

    async def stream(self, model, text):
        async with self.session.stream("POST", URL, content=request(model, True)) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                piece = text_of(line.rstrip("\n"))
                if piece:
                    text(piece)


def kib(name):
    with open("/proc/self/status", encoding="ascii") as status:
        return int(re.search(name + r":\s*(\d+)", status.read()).group(1))


def report(**fields):
    print(json.dumps(dict(client=client, mode=mode, **fields, maxrss_kib=kib("VmHWM"))))


async def ask(api, n, concurrency):
    left, size = n, 0

    async def work():
        nonlocal left, size
        while left > 0:
            left -= 1
            reply = await api.ask("bench")
            assert reply["usage"]["completion_tokens"] == 32, "not a whole reply"
            size += len(reply["choices"][0]["message"]["content"].encode())

    await asyncio.gather(*(work() for _ in range(min(n, concurrency))))
    return size


async def stream(api, n):
    deltas, size = 0, 0

    def text(piece):
        nonlocal deltas, size
        deltas += 1
        size += len(piece.encode())

    await api.stream(f"bench-n{n}", text)
    assert deltas == n, f"{deltas} of {n} deltas"
    return size


async def mode_ask(api):
    await ask(api, max(500, 2 * args["concurrency"]), args["concurrency"])
    wall, cpu = time.monotonic(), time.process_time()
    size = await ask(api, args["n"], args["concurrency"])
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    report(n=args["n"], cpu_us_per_unit=cpu / args["n"] * 1e6, wall_s=wall, text_bytes=size)


async def mode_stream(api):
    await stream(api, 3200)
    wall, cpu = time.monotonic(), time.process_time()
    size = await stream(api, args["n"])
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    report(n=args["n"], cpu_us_per_unit=cpu / args["n"] * 1e6, wall_s=wall, text_bytes=size)


async def mode_paced(api):
    await stream(api, 3200)
    streams, n = args["streams"], args["n"]
    before, first, last = kib("VmRSS"), streams, streams * (n - 1)
    seen, size, cpu_from, cpu_to = 0, 0, 0, 0

    def text(piece):
        nonlocal seen, size, cpu_from, cpu_to
        seen += 1
        size += len(piece.encode())
        if seen == first:
            cpu_from = time.process_time()
        elif seen == last:
            cpu_to = time.process_time()

    wall = time.monotonic()
    model = f"bench-n{n}-gap{args['gap']}-delay{args['delay']}"
    await asyncio.gather(*(api.stream(model, text) for _ in range(streams)))
    assert seen == streams * n, f"{seen} of {streams * n} deltas"
    report(n=seen, streams=streams, cpu_us_per_unit=(cpu_to - cpu_from) / (last - first) * 1e6,
           wall_s=time.monotonic() - wall, text_bytes=size,
           kib_per_stream=(kib("VmHWM") - before) / streams)


async def mode_init(_):
    print("ready", flush=True)


async def mode_idle(_):
    await asyncio.sleep(0.05)
    report(rss_kib=kib("VmRSS"))


async def main():
    async with {"aiohttp": Aiohttp, "httpx": Httpx}[client]() as api:
        await {"ask": mode_ask, "stream": mode_stream, "paced": mode_paced,
               "init": mode_init, "idle": mode_idle}[mode](api)

asyncio.run(main())
