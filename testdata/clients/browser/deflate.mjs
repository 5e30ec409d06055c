// Proves that pusher-js 8, unchanged and in a real browser, works with edge -deflate: Chromium negotiates permessage-deflate
// by itself, and then events come exactly as they were sent, in order and in fewer bytes, and client events reach other pages.
// Needs chromium on the PATH.

import { connect as connectTo, createServer } from "node:net";
import { TIMEOUT_MS, edge, equal, fresh, orders, run, server } from "../node/lib.mjs";
import { launch } from "./launch.mjs";
import { serve } from "./serve.mjs";

const SHARE = 0.45; // of the bytes of large messages may travel, if they are compressed

const library = new URL("../node/node_modules/pusher-js/dist/web/pusher.min.js", import.meta.url).pathname;
const browser = await launch();
const address = await serve();

await run({
  "200 large events and some small ones come in order, compressed": async () => {
    const page = await visit();
    const name = fresh("public");
    await page.subscribe(name);
    const before = page.wire.received;
    const sent = []; // [name, data]
    for (let i = 0; i < 200; i++) {
      const events = [[`large-${i}`, JSON.parse(orders(i, 1_000))]];
      if (i % 4 === 0) events.push([`small-${i}`, `${i} é 😀`]);
      sent.push(...events);
      if (i % 20 === 0) await server.triggerBatch(events.map(([event, data]) => ({ channel: name, name: event, data })));
      else for (const [event, data] of events) await server.trigger(name, event, data);
    }
    await server.trigger(name, "last", {});
    await page.gets(name, "last");
    equal(await page.all(name), [...sent, ["last", {}]], "events");
    const messages = sent.map(([event, data]) => JSON.stringify({ event, channel: name, data: JSON.stringify(data) }));
    const [took, whole] = [page.wire.received - before, Buffer.byteLength(messages.join(""))];
    console.log(`${took} instead of ${whole} bytes, ${(took / whole).toFixed(2)}`);
    equal(took <= SHARE * whole, true, `${took} bytes for messages of ${whole} are at most ${SHARE}`);
    equal(page.complaints, [], "errors on the page");
    await page.context().close();
  },

  "client events and members reach the other page": async () => {
    const [ada, bob] = [await visit("Ada"), await visit("Bob")];
    const [secret, room] = [fresh("private"), fresh("presence")];
    for (const page of [ada, bob]) for (const name of [secret, room]) await page.subscribe(name);
    equal((await ada.gets(room, "pusher:member_added")).id, "Bob", "member_added");
    const data = JSON.parse(orders(1, 9_000));
    for (const name of [secret, room]) {
      const before = ada.wire.sent;
      await ada.evaluate(([name, data]) => globalThis.pusher.channel(name).trigger("client-orders", data), [name, data]);
      equal(await bob.gets(name, "client-orders"), data, `client event on ${name}`);
      await server.trigger(name, "last", {});
      await ada.gets(name, "last");
      equal(await ada.all(name), [["last", {}]], `what the sender gets on ${name}`);
      equal(ada.wire.sent - before < SHARE * Buffer.byteLength(JSON.stringify(data)), true, `the page has compressed its event (${ada.wire.sent - before})`);
    }
    equal([ada.complaints, bob.complaints], [[], []], "errors on the pages");
    await bob.context().close();
    equal((await ada.gets(room, "pusher:member_removed")).id, "Bob", "member_removed");
    await browser.close();
  },
});

/** Opens a page of its own browser profile whose client is connected with compression. wire counts its bytes. */
async function visit(name = "Ada") {
  const page = await (await browser.newContext()).newPage();
  page.setDefaultTimeout(TIMEOUT_MS);
  page.complaints = [];
  page.on("pageerror", (err) => page.complaints.push(err.message));
  page.on("console", (message) => message.type() === "error" && page.complaints.push(message.text()));
  const devtools = await page.context().newCDPSession(page);
  const negotiated = []; // what each handshake was answered about extensions
  devtools.on("Network.webSocketHandshakeResponseReceived", ({ response }) => {
    const headers = Object.entries(response.headers).filter(([header]) => header.toLowerCase() === "sec-websocket-extensions");
    negotiated.push(headers.map(([, value]) => value));
  });
  await devtools.send("Network.enable");

  page.waitFor = (condition) =>
    page.waitForFunction(condition).catch(async () => {
      const there = await page.evaluate("JSON.stringify({ state: pusher.connection.state, got: got.slice(-5) })");
      throw new Error(`waited in vain for ${condition}: ${there}, ${page.complaints}`);
    });
  page.subscribe = async (channel) => {
    await page.evaluate(`join(${JSON.stringify(channel)})`);
    await page.gets(channel, "pusher:subscription_succeeded");
  };
  page.gets = async (channel, event) => {
    const found = `got.find(([c, e]) => c === ${JSON.stringify(channel)} && e === ${JSON.stringify(event)})`;
    await page.waitFor(found);
    return (await page.evaluate(found))[2];
  };
  page.all = async (channel) =>
    (await page.evaluate("got")).filter(([c, event]) => c === channel && !event.startsWith("pusher:")).map(([, event, data]) => [event, data]);

  page.wire = await relay();
  await page.goto(`${address}blank`);
  await page.addScriptTag({ path: library });
  await page.evaluate(
    ([key, options]) => {
      globalThis.got = [];
      const pusher = (globalThis.pusher = new globalThis.Pusher(key, options));
      globalThis.join = (channel) => {
        pusher.subscribe(channel).bind_global((event, data) => globalThis.got.push([channel, event, data]));
      };
    },
    [
      edge.key,
      {
        cluster: "",
        wsHost: edge.host,
        wsPort: page.wire.port,
        forceTLS: false,
        enabledTransports: ["ws"],
        unavailableTimeout: TIMEOUT_MS,
        channelAuthorization: { endpoint: "/pusher/auth", params: { name } },
      },
    ],
  );
  await page.waitFor(`pusher.connection.state === "connected"`);
  equal(negotiated, [["permessage-deflate; server_no_context_takeover; client_no_context_takeover"]], "extensions of the handshakes");
  return page;
}

/** Hands connections on to edge, and counts what the browser has sent and received. */
async function relay() {
  const wire = { sent: 0, received: 0 };
  const through = createServer((near) => {
    const far = connectTo(edge.port, edge.host);
    near.on("data", (bytes) => (wire.sent += bytes.length)).pipe(far);
    far.on("data", (bytes) => (wire.received += bytes.length)).pipe(near);
    near.on("error", () => far.destroy());
    far.on("error", () => near.destroy());
  });
  await new Promise((resolve) => through.listen(0, "127.0.0.1", resolve));
  wire.port = through.address().port;
  return wire;
}
