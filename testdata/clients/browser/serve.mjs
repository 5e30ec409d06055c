// The small application server behind index.html: it serves the page and pusher.min.js, authorizes channels and triggers
// events through the official server library. Run it to look at the page yourself; driver.mjs runs it for the test.
//
//   EDGE_HOST=127.0.0.1 EDGE_PORT=6001 EDGE_APP_ID=1 EDGE_KEY=key EDGE_SECRET=secret node serve.mjs

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { fileURLToPath } from "node:url";
import { edge, server } from "../node/lib.mjs";

const routes = {
  "GET /": file("index.html", "text/html; charset=utf-8"),
  "GET /blank": async () => ({ type: "text/html; charset=utf-8", body: '<!doctype html><link rel="icon" href="data:,">' }),
  "GET /pusher.min.js": file("../node/node_modules/pusher-js/dist/web/pusher.min.js", "text/javascript; charset=utf-8"),
  "POST /pusher/auth": authorize,
  "POST /trigger": trigger,
};

/** Serves the example on a free port of this machine; resolves with its address, without a query. */
export async function serve() {
  const http = createServer(handle);
  await new Promise((resolve) => http.listen(0, "127.0.0.1", resolve));
  return `http://127.0.0.1:${http.address().port}/`;
}

/** The query that tells the page where edge is. */
export const query = new URLSearchParams({ host: edge.host, port: edge.port, key: edge.key }).toString();

async function handle(request, response) {
  try {
    const route = routes[`${request.method} ${request.url.split("?")[0]}`];
    const {
      status = 200,
      type = "text/plain; charset=utf-8",
      body = "",
    } = route ? await route(await form(request)) : { status: 404 };
    response.writeHead(status, { "content-type": type }).end(body);
  } catch (err) {
    response.writeHead(502, { "content-type": "text/plain; charset=utf-8" }).end(err.message);
  }
}

function file(path, type) {
  return async () => ({ type, body: await readFile(new URL(path, import.meta.url)) });
}

/** Everyone may join as whoever they say they are: this is an example. */
function authorize({ socket_id, channel_name, name }) {
  const member = channel_name.startsWith("presence-") ? { user_id: name, user_info: { name } } : undefined;
  return { type: "application/json", body: JSON.stringify(server.authorizeChannel(socket_id, channel_name, member)) };
}

async function trigger({ channel, name, message }) {
  await server.trigger(channel, "message", { from: name, text: message });
  return {};
}

async function form(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Object.fromEntries(new URLSearchParams(Buffer.concat(chunks).toString()));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  console.log(`${await serve()}?${query}`);
}
