// Proves that a page in a real browser needs no backend with edge -dev-auth, neither if its own server hands /pusher/ on to
// edge, so that pusher-js finds the endpoints where it looks for them without being told, nor if the page asks edge across
// origins; and that a page which is not of this machine gets nothing.

import { createServer, request } from "node:http";
import { createRequire } from "node:module";
import { readFile } from "node:fs/promises";
import { TIMEOUT_MS, edge, equal, run } from "../node/lib.mjs";
import { launch } from "./launch.mjs";

const require = createRequire(new URL("../node/package.json", import.meta.url));
const script = await readFile(require.resolve("pusher-js/dist/web/pusher.min.js"));

const http = createServer((incoming, response) => {
  if (incoming.url.startsWith("/pusher/")) {
    const { method, headers, url: path } = incoming;
    const out = request({ host: edge.host, port: edge.port, method, headers, path }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    incoming.pipe(out);
  } else if (incoming.url === "/pusher.min.js") {
    response.writeHead(200, { "content-type": "text/javascript; charset=utf-8" }).end(script);
  } else {
    response
      .writeHead(200, { "content-type": "text/html; charset=utf-8" })
      .end('<!doctype html><title>dev-auth</title><link rel="icon" href="data:,"><script src="/pusher.min.js"></script>');
  }
});
await new Promise((resolve) => http.listen(0, "127.0.0.1", resolve));
const port = http.address().port;

const browser = await launch("--host-resolver-rules=MAP evil.example 127.0.0.1");

await run({
  "the paths that pusher-js has by default": async () => {
    const page = await visit(`http://127.0.0.1:${port}/`);
    equal(await page.evaluate(join, { edge, options: {} }), { user: "user", members: 1, me: true }, "what the page has");
  },

  "across origins, with a header that has the browser ask before": async () => {
    const at = (path) => ({ endpoint: `http://${edge.host}:${edge.port}${path}`, headers: { "X-CSRF-Token": "x" }, params: { user_id: "ada" } });
    const options = { channelAuthorization: at("/pusher/auth"), userAuthentication: at("/pusher/user-auth") };
    for (const host of ["localhost", "127.0.0.1"]) {
      const page = await visit(`http://${host}:${port}/`);
      equal(await page.evaluate(join, { edge, options }), { user: "ada", members: 1, me: true }, `what a page of ${host} has`);
    }
  },

  "a page of the internet gets nothing": async () => {
    const page = await visit(`http://evil.example:${port}/`);
    equal(await page.evaluate(join, { edge, options: {} }), { refused: true, status: 403 }, "the answer of its own server");
    const options = { channelAuthorization: { endpoint: `http://${edge.host}:${edge.port}/pusher/auth` } };
    equal(await page.evaluate(join, { edge, options }), { refused: true, status: 0 }, "the answer that the browser withholds");
    await browser.close();
    http.close();
  },
});

async function visit(url) {
  const page = await browser.newPage();
  page.setDefaultTimeout(TIMEOUT_MS);
  await page.goto(url);
  return page;
}

/** Runs in the page: joins a private and a presence channel and signs in; or says with which status it was refused. */
function join({ edge, options }) {
  const pusher = new Pusher(edge.key, {
    cluster: "",
    wsHost: edge.host,
    wsPort: edge.port,
    forceTLS: false,
    enabledTransports: ["ws"],
    ...options,
  });
  return new Promise((resolve) => {
    const refuse = (err) => resolve({ refused: true, status: err.status });
    const locked = pusher.subscribe("private-page");
    locked.bind("pusher:subscription_error", refuse);
    locked.bind("pusher:subscription_succeeded", () => {
      const room = pusher.subscribe(`presence-page-${Math.random()}`);
      room.bind("pusher:subscription_error", refuse);
      room.bind("pusher:subscription_succeeded", async ({ count, me }) => {
        pusher.signin();
        await pusher.user.signinDonePromise;
        resolve({ user: pusher.user.user_data.id.replace(/-.*/, ""), members: count, me: me.id === pusher.user.user_data.id });
      });
    });
  });
}
