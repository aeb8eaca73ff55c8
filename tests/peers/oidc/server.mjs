// oidc-provider on a free port, and beside it an API that takes only its tokens. Runs the command given
// with the address as the last argument, and ends with that command's exit code.
import { spawn } from "node:child_process";
import { createServer } from "node:http";
import Provider from "oidc-provider";

const TTL = 4; // seconds: the life of an access token
const counts = { token: 0, served: 0, refused: 0 };
const clients = [
  { client_id: "workflows", client_secret: "s:e/c%r+e t&=~", token_endpoint_auth_method: "client_secret_basic" },
  { client_id: "poster", client_secret: "post secret?&", token_endpoint_auth_method: "client_secret_post" },
].map((c) => ({ ...c, grant_types: ["client_credentials"], redirect_uris: [], response_types: [] }));
clients.push({ client_id: "desktop", token_endpoint_auth_method: "none", application_type: "native",
  grant_types: ["authorization_code", "refresh_token"], redirect_uris: ["http://127.0.0.1/cb"], response_types: ["code"] });

console.warn = () => {}; // its quick start's advice for production
console.info = () => {};

const server = createServer();
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const url = `http://127.0.0.1:${server.address().port}`;
const provider = new Provider(url, {
  clients,
  scopes: ["openid", "offline_access", "llm"],
  features: { clientCredentials: { enabled: true }, devInteractions: { enabled: false } },
  ttl: { ClientCredentials: () => TTL, AccessToken: () => 1, RefreshToken: () => 3600, Grant: () => 3600 },
  rotateRefreshToken: true,
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
});
const oidc = provider.callback();

function json(res, status, body) {
  res.writeHead(status, { "Content-Type": "application/json" });
  res.end(JSON.stringify(body));
}

// What a login in a browser leaves: the first refresh token of a person's grant.
async function login() {
  const client = await provider.Client.find("desktop");
  const grant = new provider.Grant({ clientId: "desktop", accountId: "me" });
  grant.addOIDCScope("openid offline_access");
  const grantId = await grant.save();
  const token = new provider.RefreshToken({ client, accountId: "me", grantId, gty: "authorization_code",
    scope: "openid offline_access", rotations: 0, iiat: Math.floor(Date.now() / 1000) });
  return token.save();
}

let revoked = 0; // tokens issued before this moment are refused

async function answer(req, res) {
  const token = (req.headers.authorization ?? "").replace(/^Bearer /, "");
  const found = (await provider.ClientCredentials.find(token)) ?? (await provider.AccessToken.find(token));
  await new Promise((resolve) => setTimeout(resolve, 150)); // what a model takes to answer
  if (!found || found.isExpired || found.iat * 1000 < revoked) {
    counts.refused++;
    return json(res, 401, { error: { type: "authentication_error", message: "expired" } });
  }
  counts.served++;
  json(res, 200, { id: "x", object: "chat.completion", model: "m",
    choices: [{ index: 0, finish_reason: "stop", message: { role: "assistant", content: found.clientId } }],
    usage: { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 } });
}

server.on("request", async (req, res) => {
  if (req.url === "/counts") return json(res, 200, counts);
  if (req.url === "/login") return json(res, 200, { refresh_token: await login() });
  if (req.url === "/revoke") {
    // iat has whole seconds: the second that runs now is the last that is refused
    revoked = (Math.floor(Date.now() / 1000) + 1) * 1000;
    return json(res, 200, { good_from: revoked });
  }
  if (req.url === "/v1/chat/completions") {
    req.resume();
    return answer(req, res);
  }
  if (req.url === "/token") counts.token++;
  oidc(req, res);
});

const [command, ...args] = process.argv.slice(2);
const child = spawn(command, [...args, url], { stdio: "inherit" });
child.on("exit", (code, signal) => process.exit(signal ? 1 : code));
