// Proves that laravel-echo 2 works with edge unchanged, through its `pusher` and its `reverb` broadcaster: public,
// private, encrypted and presence channels, namespaced events, notifications, whispers, leaving and refusals.

import Echo from "laravel-echo";
import Pusher from "pusher-js";
import { address, called, connected, edge, equal, fresh, next, run, server, serverLibrary, track } from "./lib.mjs";

const sealing = serverLibrary({ encryptionMasterKeyBase64: Buffer.alloc(32, 1).toString("base64") });

const forger = serverLibrary({ secret: "not the secret" });

/** A connected Echo; `member` is its data on presence channels. */
async function connect(broadcaster, { member, signer = sealing } = {}) {
  const customHandler = ({ socketId, channelName }, callback) =>
    callback(
      null,
      signer.authorizeChannel(socketId, channelName, channelName.startsWith("presence-") ? member : undefined),
    );
  const echo = new Echo({ ...address, broadcaster, key: edge.key, Pusher, channelAuthorization: { customHandler } });
  await connected(track(echo.connector.pusher));
  return echo;
}

/** Resolves with what the callback is given that `register` is handed. */
const given = async (register) => (await called(register))[0];

const steps = (broadcaster) => ({
  "public channel, default namespace, own names, everything": async () => {
    const echo = await connect(broadcaster);
    const name = fresh("orders");
    const channel = echo.channel(name);
    await given((done) => channel.subscribed(done));
    const namespaced = given((done) => channel.listen("OrderShipped", done));
    const named = given((done) => channel.listen(".order.shipped", done));
    const everything = [];
    channel.listenToAll((event, data) => everything.push([event, data]));
    await server.trigger(name, "App\\Events\\OrderShipped", { order: 1 });
    await server.trigger(name, "order.shipped", { order: 2 });
    equal([await namespaced, await named], [{ order: 1 }, { order: 2 }], "data of both events");
    equal(
      everything,
      [
        ["OrderShipped", { order: 1 }],
        [".order.shipped", { order: 2 }],
      ],
      "what listenToAll saw",
    );
  },

  "private and encrypted channels, notifications": async () => {
    const echo = await connect(broadcaster);
    const name = fresh("user");
    const [priv, sealed] = [echo.private(name), echo.encryptedPrivate(name)];
    await Promise.all([given((done) => priv.subscribed(done)), given((done) => sealed.subscribed(done))]);
    const note = given((done) => priv.notification(done));
    const secret = given((done) => sealed.listen("Paid", done));
    await server.trigger(`private-${name}`, "Illuminate\\Notifications\\Events\\BroadcastNotificationCreated", {
      id: 7,
    });
    await sealing.trigger(`private-encrypted-${name}`, "App\\Events\\Paid", { total: 3 });
    equal([await note, await secret], [{ id: 7 }, { total: 3 }], "notification and decrypted event");
  },

  "presence channel: here, joining, leaving": async () => {
    const room = fresh("room");
    const [ada, bob] = [
      await connect(broadcaster, { member: { user_id: "ada", user_info: { name: "Ada" } } }),
      await connect(broadcaster, { member: { user_id: 2, user_info: { name: "Bob" } } }),
    ];
    equal(await given((done) => ada.join(room).here(done)), [{ name: "Ada" }], "who is here at first");
    const joining = given((done) => ada.join(room).joining(done));
    const here = await given((done) => bob.join(room).here(done));
    equal(here.map(({ name }) => name).sort(), ["Ada", "Bob"], "who is here for the second");
    equal(await joining, { name: "Bob" }, "who joined");

    const leaving = given((done) => ada.join(room).leaving(done));
    bob.leave(room);
    equal(await leaving, { name: "Bob" }, "who left");
  },

  "whispers on private and presence channels": async () => {
    const room = fresh("room");
    const [ada, bob] = [
      await connect(broadcaster, { member: { user_id: "ada" } }),
      await connect(broadcaster, { member: { user_id: "bob" } }),
    ];
    for (const kind of ["private", "join"]) {
      await Promise.all([ada, bob].map((echo) => given((done) => echo[kind](room).subscribed(done))));
      const heard = given((done) => ada[kind](room).listenForWhisper("typing", done));
      bob[kind](room).whisper("typing", { name: "Bob" });
      equal(await heard, { name: "Bob" }, `whisper heard after ${kind}`);
    }
  },

  "leave() ends every kind of subscription under that name": async () => {
    const echo = await connect(broadcaster, { member: { user_id: "ada" } });
    const name = fresh("room");
    const all = [echo.channel(name), echo.private(name), echo.encryptedPrivate(name), echo.join(name)];
    await Promise.all(all.map((channel) => given((done) => channel.subscribed(done))));
    const names = all.map((channel) => channel.name);
    equal(await occupied(names), [true, true, true, true], `occupied before leaving ${names}`);
    echo.leave(name);
    await given((done) => echo.channel(fresh("after")).subscribed(done)); // answered after the unsubscribes were handled
    equal(await occupied(names), [false, false, false, false], `occupied after leaving ${names}`);
  },

  "error() hears of a bad signature": async () => {
    const echo = await connect(broadcaster, { signer: forger, member: { user_id: "mallory" } });
    for (const kind of ["private", "join"]) {
      const refusal = await given((done) => echo[kind](fresh("room")).error(done));
      equal([refusal.type, refusal.status], ["AuthError", 401], `refusal after ${kind}`);
    }
  },

  "X-Socket-ID: toOthers() leaves the sender out": async () => {
    const [ada, bob] = [await connect(broadcaster), await connect(broadcaster)];
    const name = fresh("orders");
    const seen = [];
    await Promise.all([ada, bob].map((echo) => given((done) => echo.channel(name).subscribed(done))));
    ada.channel(name).listenToAll((_, { n }) => seen.push(`ada ${n}`));
    const received = next(bob.connector.pusher.channel(name), "e");
    const marker = next(ada.connector.pusher.channel(name), "marker");
    await server.trigger(name, "e", { n: 1 }, { socket_id: ada.socketId() });
    await server.trigger(name, "marker", { n: 2 });
    await Promise.all([received, marker]);
    equal(seen, ["ada 2"], "what the excluded sender saw");
  },
});

async function occupied(names) {
  return Promise.all(
    names.map(async (name) => (await (await server.get({ path: `/channels/${name}` })).json()).occupied),
  );
}

await run(
  Object.fromEntries(
    ["pusher", "reverb"].flatMap((broadcaster) =>
      Object.entries(steps(broadcaster)).map(([name, step]) => [`${broadcaster}: ${name}`, step]),
    ),
  ),
);
