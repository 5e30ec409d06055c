// Proves that ws, unchanged, and edge -deflate agree on permessage-deflate (RFC 7692): that a client with compression gets the
// same messages as one without, in the same order and fewer bytes, that what it compresses is understood, and that what it
// should not send ends its connection and no other.

import { constants, deflateRawSync } from "node:zlib";
import WebSocket from "ws";
import { called, edge, equal, fresh, orders, run, server } from "./lib.mjs";

const LARGE_SHARE = 0.45; // of the bytes of large events may travel, if they are compressed
const MAX_MESSAGE = 32_759; // bytes of a client's message, compressed or not

await run({
  "the extension is agreed on with those who offer it": async () => {
    for (const [options, agreed] of [
      [{}, true],
      [{ perMessageDeflate: { serverNoContextTakeover: true, clientNoContextTakeover: true } }, true],
      [{ perMessageDeflate: { clientMaxWindowBits: 10 } }, true],
      [{ perMessageDeflate: { serverMaxWindowBits: 10 } }, false], // edge has no other window than the largest
      [{ perMessageDeflate: false }, false],
    ]) {
      const client = await connect(options);
      equal(client.ws.extensions, agreed ? "permessage-deflate" : "", `extension with ${JSON.stringify(options)}`);
      equal(client.answer, agreed ? "permessage-deflate; server_no_context_takeover; client_no_context_takeover" : undefined, "header");
      await client.alive();
    }
  },

  "both get the same events, small and large, alone and in batches": async () => {
    const [open, secret] = [fresh("public"), fresh("private")];
    const clients = [await deflating(), await plain()];
    for (const client of clients) for (const name of [open, secret]) await client.subscribe(name);
    const sent = []; // [name, data]
    for (let i = 0; i < 240; i++) {
      const event = [`e${i}`, [() => `${i} plain text, é 😀`, () => orders(i, 1_000), () => orders(i, 9_000)][i % 3]()];
      sent.push(event);
      await server.trigger([open, secret], ...event);
      if (i % 20 === 0) {
        const batch = Array.from({ length: 5 }, (_, k) => [`b${i}.${k}`, orders(i + k, k % 2 ? 20 : 2_000)]);
        sent.push(...batch);
        await server.triggerBatch(batch.flatMap(([name, data]) => [open, secret].map((channel) => ({ channel, name, data }))));
      }
    }
    for (const name of [open, secret]) {
      await marked(name, clients);
      for (const client of clients) equal(client.events(name), sent, `events on ${name} with ${client.what}`);
      equal(clients[0].texts(name), clients[1].texts(name), `messages on ${name}`);
    }
  },

  "only what is worth it is compressed, and then it is": async () => {
    const clients = [await deflating(), await plain()];
    const cost = async (data, times) => {
      const name = fresh("public");
      for (const client of clients) await client.subscribe(name);
      for (const client of clients) await client.alive(); // the subscription_count of the other has come
      const before = clients.map(({ socket }) => socket.bytesRead);
      for (let i = 0; i < times; i++) await server.trigger(name, "e", data(i));
      await marked(name, clients);
      return clients.map(({ socket }, i) => socket.bytesRead - before[i]);
    };
    const small = await cost((i) => `${i} is small`, 50);
    equal(small[0], small[1], "bytes of small events");
    for (const size of [1_000, 9_000]) {
      const [packed, whole] = await cost((i) => orders(i, size), 50);
      console.log(`events of ${size} bytes: ${packed} instead of ${whole} bytes, ${(packed / whole).toFixed(2)}`);
      equal(whole > 50 * 0.8 * size, true, `the plain client gets ${whole} bytes for 50 events of ${size}`);
      equal(packed <= LARGE_SHARE * whole, true, `${packed} of ${whole} bytes for events of ${size} are at most ${LARGE_SHARE}`);
    }
  },

  "who is excluded from some events of a batch misses those and no others": async () => {
    const name = fresh("public");
    const clients = [await deflating(), await deflating(), await plain()];
    for (const client of clients) await client.subscribe(name);
    const sent = []; // [name, data, who must not get it]
    for (let i = 0; i < 40; i++) {
      const batch = Array.from({ length: 10 }, (_, k) => [`e${i}.${k}`, orders(k, k % 3 ? 20 : 600), clients[(i * k) % 5]]);
      sent.push(...batch);
      await server.triggerBatch(batch.map(([event, data, except]) => ({ channel: name, name: event, data, ...(except && { socket_id: except.id }) })));
    }
    await marked(name, clients);
    for (const client of clients) {
      const want = sent.filter(([, , except]) => except !== client).map(([event, data]) => [event, data]);
      equal(client.events(name), want, `events of number ${clients.indexOf(client)}`);
    }
  },

  "who subscribes meanwhile gets everything from then on": async () => {
    const name = fresh("public");
    await (await deflating()).subscribe(name); // so that the channel is busy
    let going = true;
    const flood = (async () => {
      let n = 0;
      for (; going; n += 10) {
        await server.triggerBatch(Array.from({ length: 10 }, (_, k) => ({ channel: name, name: `${n + k}`, data: orders(k, k % 2 ? 20 : 900) })));
      }
      return n;
    })();
    const late = [];
    for (let i = 0; i < 30; i++) {
      late.push(await (i % 3 === 2 ? plain() : deflating()));
      await late.at(-1).subscribe(name);
    }
    going = false;
    const n = await flood;
    await marked(name, late);
    for (const client of late) {
      const got = client.events(name).map(([event]) => Number(event));
      equal(got, Array.from({ length: got.length }, (_, i) => n - got.length + i), "numbers of the events");
    }
  },

  "who reads late gets everything, compressed, after the others have gone on": async () => {
    const name = fresh("public");
    const clients = [await deflating(), await deflating(), await plain()];
    for (const client of clients) await client.subscribe(name);
    const [late, ...others] = clients;
    const before = late.socket.bytesRead;
    // Compressed it is more than the kernel takes for a client, and less than -send-buffer besides.
    const sent = Array.from({ length: 400 }, (_, i) => [`e${i}`, orders(i, 9_000)]);
    late.ws.pause(); // for much less than the 10 s after which edge gives up
    for (let i = 0; i < sent.length; i += 8) {
      await server.triggerBatch(sent.slice(i, i + 8).map(([event, data]) => ({ channel: name, name: event, data })));
    }
    await marked(name, others);
    const there = late.events(name).length;
    equal(there < sent.length, true, `events that have come to who does not read (${there})`);
    late.ws.resume();
    await marked(name, clients);
    for (const client of clients) equal(client.events(name), sent, `events of number ${clients.indexOf(client)}`);
    const [took, whole] = [late.socket.bytesRead - before, Buffer.byteLength(late.texts(name).join(""))];
    equal(took <= LARGE_SHARE * whole, true, `${took} of ${whole} bytes are at most ${LARGE_SHARE}`);
  },

  "client events, compressed, reach the others and not the sender": async () => {
    const name = fresh("private");
    const [sender, receiver] = [await deflating(), await plain()];
    for (const client of [sender, receiver]) await client.subscribe(name);
    const sent = [...Array(8).keys()].map((i) => ["client-event", orders(i, [300, 1_000, 9_000][i % 3])]);
    const before = sender.socket.bytesWritten;
    for (const [event, data] of sent) sender.send(event, name, data);
    await receiver.has(name, sent.length);
    await marked(name, [sender, receiver]);
    equal(receiver.events(name), sent, "what the others get");
    equal(sender.events(name), [], "what the sender gets");
    const [wrote, whole] = [sender.socket.bytesWritten - before, Buffer.byteLength(sent.map(([, data]) => data).join(""))];
    equal(wrote < LARGE_SHARE * whole, true, `the sender has compressed ${whole} bytes (${wrote})`);

    for (const [event, data] of sent) receiver.send(event, name, data);
    await sender.has(name, sent.length + 1); // and the marker
    equal(sender.events(name), sent, "what comes back");
    await marked(name, [receiver]);
    equal(receiver.events(name), sent, "what the second sender has");
  },

  "presence: a large member comes and goes": async () => {
    const name = fresh("presence");
    const member = (id) => ({ user_id: id, user_info: { notes: orders(1, 700) } });
    const [ada, bob] = [await deflating(), await plain()];
    const hash = (...ids) => Object.fromEntries(ids.map((id) => [id, member(id).user_info]));
    equal((await ada.subscribe(name, member("ada"))).presence.hash, hash("ada"), "who is there");
    equal((await bob.subscribe(name, member("bob"))).presence.hash, hash("ada", "bob"), "who is there then");
    const added = await ada.next(({ event, channel }) => event === "pusher_internal:member_added" && channel === name, "member_added");
    equal(JSON.parse(added.data), member("bob"), "member_added");
    const eve = await deflating();
    equal((await eve.subscribe(name, member("eve"))).presence.hash, hash("ada", "bob", "eve"), "who is there at last");
    eve.ws.close();
    const removed = await bob.next(({ event, channel }) => event === "pusher_internal:member_removed" && channel === name, "member_removed");
    equal(JSON.parse(removed.data), { user_id: "eve" }, "member_removed");
  },

  "every form of a compressed message is understood": async () => {
    const client = await deflating();
    const half = Math.floor(ping().length / 2);
    for (const [what, ...frames] of [
      ["as ws sends it", frame(0xc1, deflate(ping()))],
      ["not compressed", frame(0x81, ping())],
      ["stored", frame(0xc1, deflate(ping(), { level: 0 }))],
      ["with a last block", frame(0xc1, Buffer.concat([deflateRawSync(ping()), Buffer.of(0)]))], // RFC 7692 section 7.2.3.4
      ["in two blocks", frame(0xc1, Buffer.concat([flushed(ping().subarray(0, half)), deflate(ping().subarray(half))]))], // 7.2.3.5
      ["in fragments, with a ping between", ...fragments(deflate(ping()), 10, frame(0x89, "between"))], // 7.2.3.1
      ["in fragments, the first empty", frame(0x41, ""), frame(0x80, deflate(ping()))],
      ["of the largest size", frame(0xc1, deflate(ping(MAX_MESSAGE)))],
      ["of the largest size, not compressed", frame(0x81, ping(MAX_MESSAGE))],
    ]) {
      const pong = client.next(({ event }) => event === "pusher:pong", `a pong to a message ${what}`, client.log.length);
      client.socket.write(Buffer.concat(frames));
      await pong;
    }
    equal(client.log.filter(({ event }) => event === "pusher:error"), [], "errors");
  },

  "what is wrong ends the connection, and no other": async () => {
    const neighbours = [await deflating(), await plain()];
    const bad = deflate(ping());
    for (const [what, code, connecting, ...frames] of [
      ["a bomb of 16 MB", 1009, deflating, frame(0xc1, deflate(ping(16 << 20)))],
      ["a bomb of 16 MB in fragments", 1009, deflating, ...fragments(deflate(ping(16 << 20)), 500)],
      ["one byte too many", 1009, deflating, frame(0xc1, deflate(ping(MAX_MESSAGE + 1)))],
      ["one byte too many, not compressed", 1009, deflating, frame(0x81, ping(MAX_MESSAGE + 1))],
      ["no deflate stream", 1007, deflating, frame(0xc1, Buffer.alloc(50, 0xff))],
      ["no deflate stream, the plain message", 1007, deflating, frame(0xc1, ping())],
      ["half of a stream", 1007, deflating, frame(0xc1, bad.subarray(0, bad.length / 2))],
      ["no UTF-8", 1007, deflating, frame(0xc1, deflate(Buffer.from('{"event":"\xff"}', "latin1")))],
      ["a binary message", 1003, deflating, frame(0xc2, deflate(ping()))],
      ["RSV1 on a continuation", 1002, deflating, frame(0x41, bad.subarray(0, 5)), frame(0xc0, bad.subarray(5))],
      ["RSV1 on a ping", 1002, deflating, frame(0xc9, "x")],
      ["RSV1 on a pong", 1002, deflating, frame(0xca, "")],
      ["RSV1 on a close", 1002, deflating, frame(0xc8, "")],
      ["RSV2", 1002, deflating, frame(0xa1, ping())],
      ["RSV1 and RSV3", 1002, deflating, frame(0xd1, bad)],
      ["RSV1 without the extension", 1002, plain, frame(0xc1, bad)],
      ["RSV1 without the extension, on a message that would be good", 1002, plain, frame(0xc1, ping())],
    ]) {
      const client = await connecting();
      const closed = called((done) => client.ws.once("close", (status) => done(status)), `the end after ${what}`);
      client.socket.write(Buffer.concat(frames));
      equal(await closed, [code], `close code after ${what}`);
      equal(client.log.map(({ event }) => event), ["pusher:connection_established"], `what came before the end after ${what}`);
      for (const other of [...neighbours, await deflating()]) await other.alive();
    }
    const name = fresh("public");
    for (const client of neighbours) await client.subscribe(name);
    await server.trigger(name, "after", orders(1, 1_000));
    await marked(name, neighbours);
    for (const client of neighbours) equal(client.events(name), [["after", orders(1, 1_000)]], "an event afterwards");
  },
});

// ---- clients ----

/** A client with compression, that compresses whatever it sends. */
async function deflating() {
  const client = await connect({ perMessageDeflate: { threshold: 0 } });
  equal(client.ws.extensions, "permessage-deflate", "extension");
  return client;
}

function plain() {
  return connect({ perMessageDeflate: false });
}

/** A connected client that keeps every message it gets. */
async function connect(options) {
  const ws = new WebSocket(`ws://${edge.host}:${edge.port}/app/${edge.key}?protocol=7&client=ws&version=8`, options);
  const client = { ws, log: [], what: `the options ${JSON.stringify(options)}` };
  const waiting = new Set();
  const over = new Promise((resolve) => ["error", "close"].forEach((event) => ws.on(event, (why) => resolve(String(why)))));
  ws.on("upgrade", (response) => (client.answer = response.headers["sec-websocket-extensions"]));
  ws.on("message", (message) => {
    client.log.push({ text: message.toString(), ...JSON.parse(message) });
    waiting.forEach((look) => look());
  });

  /** Resolves with the first message of the log, from the given place on, that `accept` agrees to. */
  client.next = async (accept, what, from = 0) => {
    const find = () => client.log.slice(from).find(accept);
    if (!find()) {
      let look;
      const found = called((done) => waiting.add((look = () => find() && done())), `${what} with ${client.what}`);
      await Promise.race([found, over.then((why) => equal(why, undefined, `the end of the connection, waiting for ${what}`))]);
      waiting.delete(look);
    }
    return find();
  };

  client.send = (event, channel, data) => ws.send(JSON.stringify({ event, channel, data }));
  client.alive = () => {
    const pong = client.next(({ event }) => event === "pusher:pong", "a pong", client.log.length);
    ws.send(ping().toString());
    return pong;
  };

  /** Subscribes, and resolves with the data of the answer. */
  client.subscribe = async (channel, member) => {
    const token = /^(private|presence)-/.test(channel) ? server.authorizeChannel(client.id, channel, member) : {};
    const answer = client.next((m) => m.channel === channel && /subscription_(succeeded|error)$/.test(m.event), `an answer for ${channel}`);
    ws.send(JSON.stringify({ event: "pusher:subscribe", data: { channel, ...token } }));
    const { event, data } = await answer;
    equal(event, "pusher_internal:subscription_succeeded", `answer for ${channel}`);
    return JSON.parse(data);
  };

  const ofApplication = (channel) => client.log.filter((m) => m.channel === channel && !m.event.startsWith("pusher"));
  client.texts = (channel) => ofApplication(channel).map(({ text }) => text);
  client.events = (channel) => ofApplication(channel).filter(({ event }) => event !== "marker").map(({ event, data }) => [event, data]);
  client.has = (channel, n) => client.next(() => client.texts(channel).length >= n, `${n} messages on ${channel}`);

  const hello = await client.next(({ event }) => event === "pusher:connection_established", "connection_established");
  client.id = JSON.parse(hello.data).socket_id;
  client.socket = ws._socket; // there is no other way to count bytes and to send frames that ws would not
  return client;
}

/** Waits until all have got what was triggered on the channel before. */
async function marked(channel, clients) {
  const data = fresh("marker");
  await server.trigger(channel, "marker", data);
  for (const client of clients) await client.next((m) => m.event === "marker" && m.data === data, `the marker on ${channel}`);
}

// ---- frames ----

/** The text of a ping of the Pusher protocol, of this many bytes. */
function ping(bytes = 40) {
  const text = (fill) => `{"event":"pusher:ping","data":"${fill}"}`;
  return Buffer.from(text("x".repeat(Math.max(0, bytes - text("").length))));
}

/** What goes into the frames of a compressed message (RFC 7692 section 7.2.1). */
function deflate(message, options) {
  return flushed(message, options).subarray(0, -4); // 00 00 ff ff
}

function flushed(message, options) {
  return deflateRawSync(message, { ...options, finishFlush: constants.Z_SYNC_FLUSH });
}

/** A frame of a client with this first byte. */
function frame(first, payload) {
  const [mask, bytes] = [Buffer.from([0x12, 0x34, 0x56, 0x78]), Buffer.from(payload)];
  const head = Buffer.alloc(bytes.length < 126 ? 2 : 4);
  head[0] = first;
  if (bytes.length < 126) head[1] = 0x80 | bytes.length;
  else {
    head[1] = 0x80 | 126;
    head.writeUInt16BE(bytes.length, 2);
  }
  bytes.forEach((b, i) => (bytes[i] = b ^ mask[i % 4]));
  return Buffer.concat([head, mask, bytes]);
}

/** A compressed text message in frames of this size, with others behind the first. */
function fragments(payload, size, ...others) {
  const frames = [];
  for (let at = 0; at < payload.length; at += size) {
    const last = at + size >= payload.length;
    frames.push(frame((last ? 0x80 : 0) | (at === 0 ? 0x41 : 0), payload.subarray(at, at + size)));
  }
  return [frames[0], ...others, ...frames.slice(1)];
}
