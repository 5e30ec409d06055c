// Proves that pusher-js, unchanged and in a real browser, works over HTTP when WebSocket cannot get through.
//
//   node fallback.mjs VERSION TRANSPORT
//
// VERSION is the pusher-js to load: 8 or 4. TRANSPORT is xhr_streaming or xhr_polling, with which it is told to connect; or
// blocked or buffered, for a proxy that keeps WebSocket from getting through, and streams too, so that it finds out itself.
// EDGE_CONTROL is an address at which a POST restarts edge.

import { createServer, request as httpRequest } from "node:http";
import { TIMEOUT_MS, edge, equal, fresh, run, server, setting } from "../node/lib.mjs";
import { launch } from "./launch.mjs";
import { serve } from "./serve.mjs";

const GAP_MS = 5_000; // after which edge gives up a client that does not ask for anything

const [version, transport] = process.argv.slice(2);
const forced = transport.startsWith("xhr");
const library = new URL(`../node/node_modules/pusher-js${version === "4" ? "-4" : ""}/dist/web/pusher.js`, import.meta.url).pathname;
const browser = await launch();
const address = await serve();

const pages = []; // of the step
const steps = forced
  ? {
      "public, private and presence channels, and client events": together,
      "500 events come in order, none lost or repeated": manyEvents,
      "more than 256 KiB come without loss": muchData,
      "a browser that is killed leaves presence": killed,
      "a restart of the server leads to reconnection": restarted,
      "what is refused is not tried again": refused,
    }
  : { "it finds another way by itself": findsOut };

const patient = Object.entries(steps).map(([name, step]) => [name, () => again(name, step)]);
await run({ ...Object.fromEntries(patient), "the browser closes": () => browser.close() });

/** Runs a step, and once more if it failed with a page that was so slow to ask that edge had to give it up. */
async function again(name, step) {
  pages.length = 0;
  try {
    await step();
  } catch (err) {
    const late = await Promise.all(pages.map((page) => page.evaluate("late").catch(() => false)));
    if (!late.includes(true)) throw err;
    console.log(`${name}: a page asked for nothing for ${GAP_MS} ms and lost its session, so once more (${err.message})`);
    for (const page of pages) await page.context().close().catch(() => {});
    await step();
  }
}

async function together() {
  const [room, secret] = [fresh("presence"), fresh("private")];
  const [ada, bob] = [await visit("Ada"), await visit("Bob")];
  for (const page of [ada, bob]) for (const name of ["news", secret, room]) await page.subscribe(name);
  await ada.gets(room, "pusher:member_added", (data) => data.id === "Bob");
  await server.trigger(["news", secret], "hello", { text: "héllo 😀" });
  for (const page of [ada, bob]) {
    for (const name of ["news", secret]) equal(await page.gets(name, "hello"), { text: "héllo 😀" }, `data on ${name}`);
  }
  for (const name of [secret, room]) {
    await bob.evaluate(`pusher.channel(${JSON.stringify(name)}).trigger("client-typing", { keys: 3 })`);
    equal(await ada.gets(name, "client-typing"), { keys: 3 }, `client event on ${name}`);
  }
  equal(await ada.evaluate(`pusher.channel(${JSON.stringify(room)}).members.count`), 2, "members");
  equal([ada.complaints, bob.complaints], [[], []], "errors on the pages");
  await bob.context().close();
  await ada.gets(room, "pusher:member_removed", (data) => data.id === "Bob");
  await ada.context().close();
}

async function manyEvents() {
  const page = await visit("Ada");
  const name = fresh("public");
  await page.subscribe(name);
  for (let i = 0; i < 500; i += 10) {
    await server.triggerBatch(Array.from({ length: 10 }, (_, k) => ({ channel: name, name: "e", data: i + k })));
  }
  await server.trigger(name, "last", {});
  await page.gets(name, "last");
  equal(await page.all(name, "e"), [...Array(500).keys()], "events");
  await page.context().close();
}

async function muchData() {
  const page = await visit("Ada");
  const name = fresh("public");
  await page.subscribe(name);
  const text = "😀ä".repeat(2_000);
  const before = page.requests.length;
  for (let i = 0; i < 150; i++) {
    await server.trigger(name, "e", `${i} ${text.slice(0, 5_000)}`);
    if (i % 30 === 29) await page.waitFor(`got.length >= ${i}`); // more than -send-buffer is not to be on its way
  }
  await server.trigger(name, "last", {});
  await page.gets(name, "last");
  equal(
    (await page.all(name, "e")).map((data) => Number(data.split(" ")[0])),
    [...Array(150).keys()],
    "events",
  );
  equal(await page.evaluate("states"), ["connecting", "connected"], "states of the connection");
  if (transport === "xhr_streaming") {
    const reopened = page.requests.slice(before).filter((url) => url.includes("/xhr_streaming")).length;
    equal(reopened >= 2, true, `a stream of 750,000 characters is reopened (${reopened} times)`);
  }
  await page.context().close();
}

async function killed() {
  const name = fresh("presence");
  const page = await visit("Ada");
  await page.subscribe(name);
  const other = await launch();
  const victim = await visit("victim", { from: other });
  await victim.subscribe(name);
  await page.gets(name, "pusher:member_added");
  const began = Date.now();
  const session = await other.newBrowserCDPSession();
  session.send("Browser.crash").catch(() => {}); // it cannot answer
  await page.gets(name, "pusher:member_removed", (data) => data.id === "victim");
  const took = Date.now() - began;
  equal(took >= GAP_MS - 3_000 && took < 10 * GAP_MS, true, `the victim leaves after about ${GAP_MS} ms (${took})`);
  await page.context().close();
}

async function restarted() {
  const page = await visit("Ada");
  const name = fresh("private");
  await page.subscribe(name);
  const first = await page.evaluate("pusher.connection.socket_id");
  equal((await fetch(setting("EDGE_CONTROL"), { method: "POST" })).status, 200, "status of the restart");
  await page.waitFor(`pusher.connection.state === "connected" && pusher.connection.socket_id !== ${JSON.stringify(first)}`);
  await page.waitFor(`pusher.channel(${JSON.stringify(name)}).subscribed`);
  await server.trigger(name, "after", 1);
  equal(await page.gets(name, "after"), 1, "data after the restart");
  equal(await page.evaluate("pusher.connection.connection.transport.name"), transport, "transport after the restart");
  await page.context().close();
}

async function refused() {
  const page = await visit("Ada", { key: "nokey", connects: false });
  await page.waitFor(`states.at(-1) === "disconnected" || states.at(-1) === "failed"`);
  equal(await page.evaluate("errors"), [4001], "errors");
  equal(page.requests.filter((url) => url.includes("/xhr")).length, 1, "requests");
  await page.context().close();
}

async function findsOut() {
  const port = await proxy();
  const page = await visit("Ada", { port, transports: undefined });
  equal(
    await page.evaluate("pusher.connection.connection.transport.name"),
    transport === "blocked" ? "xhr_streaming" : "xhr_polling",
    "transport",
  );
  const other = await visit("Bob", { port, transports: undefined });
  const name = fresh("presence");
  for (const p of [page, other]) await p.subscribe(name);
  await page.gets(name, "pusher:member_added", (data) => data.id === "Bob");
  await server.trigger(name, "hello", "through");
  for (const p of [page, other]) equal(await p.gets(name, "hello"), "through", "data");
  await other.evaluate(`pusher.channel(${JSON.stringify(name)}).trigger("client-x", 1)`);
  equal(await page.gets(name, "client-x"), 1, "client event");
}

/**
 * A proxy that answers upgrades with 502, and when buffered keeps the answers of streams to itself, or else those of polls:
 * pusher-js polls when there is no stream after 4 s, and would take what is first.
 */
async function proxy() {
  const through = createServer((incoming, outgoing) => {
    const { method, url, headers } = incoming;
    const onward = httpRequest({ host: edge.host, port: edge.port, method, path: url, headers }, (answer) => {
      if (method === "POST" && url.includes(transport === "buffered" ? "/xhr_streaming" : "/xhr?")) return answer.resume();
      outgoing.writeHead(answer.statusCode, answer.headers);
      answer.pipe(outgoing);
    });
    onward.on("error", () => outgoing.destroy());
    outgoing.on("close", () => onward.destroy());
    incoming.pipe(onward);
  });
  through.on("upgrade", (_, socket) => socket.end("HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"));
  await new Promise((resolve) => through.listen(0, "127.0.0.1", resolve));
  return through.address().port;
}

/** Opens a page of its own browser profile with a client, and waits until it is connected. */
async function visit(name, { from = browser, key = edge.key, port = edge.port, connects = true, transports = forced ? [transport] : undefined } = {}) {
  const page = await (await from.newContext()).newPage();
  pages.push(page);
  page.setDefaultTimeout(TIMEOUT_MS);
  Object.assign(page, { complaints: [], requests: [] });
  page.on("pageerror", (err) => page.complaints.push(err.message));
  page.on("request", (request) => request.method() === "POST" && page.requests.push(request.url()));
  page.waitFor = async (condition) => {
    await page.waitForFunction(`late || (${condition})`).catch(async () => {
      const there = await page.evaluate("JSON.stringify({ states, errors, got: got.slice(-20) }, (_, v) => typeof v === 'string' ? v.slice(0, 40) : v)");
      throw new Error(`waited in vain for ${condition}: ${there}, ${page.complaints}, ${page.requests.slice(-20).join(" ")}`);
    });
    equal(await page.evaluate("late"), false, `the session was lost, waiting for ${condition}`);
  };
  page.subscribe = async (channel) => {
    await page.evaluate(`join(${JSON.stringify(channel)})`);
    await page.gets(channel, "pusher:subscription_succeeded");
  };
  page.all = (channel, event) =>
    page.evaluate(([c, e]) => globalThis.got.filter(([x, y]) => x === c && y === e).map(([, , data]) => data), [channel, event]);
  page.gets = async (channel, event, accept = () => true) => {
    const found = `got.filter(([c, e]) => c === ${JSON.stringify(channel)} && e === ${JSON.stringify(event)}).map(([, , data]) => data)`;
    await page.waitFor(`${found}.some(${accept})`);
    return (await page.evaluate(found)).find(accept);
  };
  await page.goto(`${address}blank`);
  await page.addScriptTag({ path: library });
  await page.evaluate(
    ([key, options, gap]) => {
      Object.assign(globalThis, { got: [], states: ["connecting"], errors: [], late: false });
      const asked = []; // when, for what edge has
      const { open } = XMLHttpRequest.prototype;
      XMLHttpRequest.prototype.open = function (method, url, ...rest) {
        if (/\/xhr(_streaming)?\?/.test(url)) asked.push(performance.now());
        return open.call(this, method, url, ...rest);
      };
      const pusher = (globalThis.pusher = new globalThis.Pusher(key, options));
      pusher.connection.bind("state_change", ({ current }) => current === globalThis.states.at(-1) || globalThis.states.push(current));
      pusher.connection.bind("error", (err) => globalThis.errors.push((err.error ?? err).data?.code));
      pusher.connection.bind("connected", () =>
        pusher.connection.connection.transport.bind("closed", (end) => {
          if (end?.reason === "Server lost session" && performance.now() - asked.at(-2) >= gap) globalThis.late = true;
        }),
      );
      globalThis.join = (name) => {
        pusher.subscribe(name).bind_global((event, data) => globalThis.got.push([name, event, data]));
      };
    },
    [
      key,
      {
        cluster: "",
        wsHost: edge.host,
        wsPort: port,
        wssPort: port,
        httpHost: edge.host,
        httpPort: port,
        forceTLS: false,
        disableStats: true,
        ...(transports && { enabledTransports: transports }),
        authEndpoint: "/pusher/auth",
        auth: { params: { name } },
        unavailableTimeout: TIMEOUT_MS,
        unavailable_timeout: TIMEOUT_MS,
      },
      GAP_MS,
    ],
  );
  if (connects) await page.waitFor(`pusher.connection.state === "connected"`);
  return page;
}
