// Proves that the official Node server library works with edge unchanged: triggering alone, to many channels and in
// batches, the attributes a trigger can ask for, the state of channels and users, signatures, and every refusal
// an application can run into.

import {
  connect,
  edge,
  equal,
  fresh,
  inbox,
  next,
  nextError,
  nextFrame,
  rejected,
  run,
  server,
  serverLibrary,
  subscribe,
} from "./lib.mjs";

const json = async (response) => (await response).json();

const get = (path, params) => json(server.get({ path, params }));

run({
  "trigger answers with an empty object": async () => {
    const response = await server.trigger(fresh("public"), "e", { n: 1 });
    equal([response.status, await response.json()], [200, {}], "status and body");
    equal(await json(server.trigger([fresh("a"), fresh("b")], "e", "")), {}, "body for empty data on two channels");
  },

  "trigger reaches 100 channels, each once": async () => {
    const pusher = await connect();
    const names = Array.from({ length: 100 }, () => fresh("many"));
    const channels = await Promise.all(names.map((name) => subscribe(pusher, name)));
    const inboxes = channels.map(inbox);
    const markers = channels.map((channel) => next(channel, "marker"));
    await server.trigger(names, "e", { n: 1 });
    await server.trigger(names, "marker", {});
    await Promise.all(markers);
    equal(
      inboxes,
      names.map(() => [
        ["e", { n: 1 }],
        ["marker", {}],
      ]),
      "events per channel",
    );
  },

  "triggerBatch delivers ten events in order": async () => {
    const pusher = await connect();
    const [a, b] = [await subscribe(pusher, fresh("a")), await subscribe(pusher, fresh("b"))];
    const [inA, inB] = [inbox(a), inbox(b)];
    const last = [next(a, "e", (n) => n === 8), next(b, "e", (n) => n === 9)];
    const batch = Array.from({ length: 10 }, (_, n) => ({ channel: [a, b][n % 2].name, name: "e", data: n }));
    equal(await json(server.triggerBatch(batch)), {}, "body");
    await Promise.all(last);
    equal(
      [inA, inB].map((events) => events.map(([, n]) => n)),
      [
        [0, 2, 4, 6, 8],
        [1, 3, 5, 7, 9],
      ],
      "events per channel",
    );
  },

  "a batch item can leave a socket out": async () => {
    const [ada, bob] = [await connect(), await connect()];
    const name = fresh("public");
    const channels = [await subscribe(ada, name), await subscribe(bob, name)];
    const inboxes = channels.map(inbox);
    const markers = channels.map((channel) => next(channel, "marker"));
    await server.triggerBatch([
      { channel: name, name: "e", data: 1, socket_id: ada.connection.socket_id },
      { channel: name, name: "marker", data: 2 },
    ]);
    await Promise.all(markers);
    equal(
      inboxes,
      [
        [["marker", 2]],
        [
          ["e", 1],
          ["marker", 2],
        ],
      ],
      "events of the excluded and the other",
    );
  },

  "trigger and triggerBatch tell the counts that info asks for": async () => {
    const { room, lobby } = await crowd();
    const info = "user_count,subscription_count";
    const both = { user_count: 2, subscription_count: 3 };
    equal(
      await json(server.trigger([room, lobby], "e", {}, { info })),
      { channels: { [room]: both, [lobby]: { subscription_count: 1 } } },
      "channels",
    );
    equal(
      await json(server.trigger(room, "e", {}, { info: "user_count" })),
      { channels: { [room]: { user_count: 2 } } },
      "user_count alone",
    );
    const batch = [
      { channel: room, name: "e", data: {}, info },
      { channel: lobby, name: "e", data: {} },
      { channel: lobby, name: "e", data: {}, info },
    ];
    equal(await json(server.triggerBatch(batch)), { batch: [both, {}, { subscription_count: 1 }] }, "batch");
  },

  "GET /channels lists what is occupied": async () => {
    const { room, lobby } = await crowd();
    const { channels } = await get("/channels");
    equal([channels[room], channels[lobby]], [{}, {}], "both channels without info");
    equal(
      await get("/channels", { filter_by_prefix: room, info: "user_count" }),
      { channels: { [room]: { user_count: 2 } } },
      "with filter and user_count",
    );
    equal(await get("/channels", { filter_by_prefix: fresh("nobody") }), { channels: {} }, "nothing, as an object");
    const refused = server.get({ path: "/channels", params: { info: "user_count" } });
    await rejected(refused, 400, /user_count may only be requested for presence channels/);
  },

  "GET /channels/x describes one channel": async () => {
    const { room, lobby } = await crowd();
    const info = "user_count,subscription_count";
    equal(
      await get(`/channels/${room}`, { info }),
      { occupied: true, user_count: 2, subscription_count: 3 },
      "presence channel",
    );
    equal(
      await get(`/channels/${lobby}`, { info: "subscription_count" }),
      { occupied: true, subscription_count: 1 },
      "public channel",
    );
    equal(await get(`/channels/${fresh("nobody")}`), { occupied: false }, "unoccupied channel");
    await rejected(server.get({ path: `/channels/${lobby}`, params: { info: "user_count" } }), 400, /presence channel/);
    await rejected(server.get({ path: `/channels/${lobby}`, params: { info: "cache" } }), 400);
  },

  "GET /channels/cache-x tells the cached event": async () => {
    const name = fresh("cache");
    equal(await get(`/channels/${name}`, { info: "cache" }), { occupied: false, cache: null }, "nothing cached");
    await server.trigger(name, "price", { eur: 1 });
    const { cache } = await get(`/channels/${name}`, { info: "cache" });
    equal(cache.data, '{"eur":1}', "cached data");
    equal(
      Number.isInteger(cache.ttl) && cache.ttl > 0 && cache.ttl <= 1800,
      true,
      `ttl ${cache.ttl} is whole seconds of at most 30 min`,
    );
  },

  "GET /channels/x/users lists distinct users": async () => {
    const { room, lobby } = await crowd();
    const { users } = await get(`/channels/${room}/users`);
    equal(users.map(({ id }) => id).sort(), ["10", "ada"], "ids, as strings");
    equal(await get(`/channels/${fresh("presence-nobody")}/users`), { users: [] }, "nobody");
    await rejected(server.get({ path: `/channels/${lobby}/users` }), 400, /presence channels/);
  },

  "authorizeChannel and authenticateUser sign what edge accepts": async () => {
    const user = { id: fresh("user"), user_info: { name: "Ünï" } };
    const pusher = await connect({ user, member: { user_id: "1", user_info: { 'a"b': "é\\" } } });
    const { members } = await subscribe(pusher, fresh("presence"));
    equal(members.me.info, { 'a"b': "é\\" }, "user_info");
    const success = nextFrame(pusher, ({ event }) => event === "pusher:signin_success");
    pusher.signin();
    equal(JSON.parse((await success).data.user_data), user, "user_data");
  },

  "terminateUserConnections answers with an object, also for unknown users": async () => {
    equal(await json(server.terminateUserConnections(fresh("nobody"))), {}, "body");
    const user = { id: fresh("user") };
    const pusher = await connect({ user });
    const success = nextFrame(pusher, ({ event }) => event === "pusher:signin_success");
    pusher.signin();
    await success;
    const closed = nextError(pusher, 4009);
    await server.terminateUserConnections(user.id);
    await closed;
  },

  "wrong credentials are 401, a wrong app is 404": async () => {
    const name = fresh("public");
    await rejected(serverLibrary({ secret: "wrong" }).trigger(name, "e", {}), 401, /Invalid signature/);
    await rejected(serverLibrary({ key: "wrong" }).trigger(name, "e", {}), 401, /Unknown auth_key/);
    await rejected(serverLibrary({ secret: "wrong" }).get({ path: "/channels" }), 401, /Invalid signature/);
    await rejected(serverLibrary({ appId: `${edge.appId}0` }).trigger(name, "e", {}), 404);
    await rejected(server.get({ path: "/no-such-thing" }), 404);
  },

  "data of 10 KB is the most: more is 413": async () => {
    const pusher = await connect();
    const channel = await subscribe(pusher, fresh("public"));
    const received = next(channel, "e");
    await server.trigger(channel.name, "e", "x".repeat(10_240));
    equal((await received).length, 10_240, "length of the largest data");
    await rejected(
      server.trigger(channel.name, "e", "x".repeat(10_241)),
      413,
      /exceeds the allowed maximum \(10240 bytes\)/,
    );
    await rejected(server.trigger(channel.name, "e", "é".repeat(5_121)), 413);
    await rejected(server.triggerBatch([{ channel: channel.name, name: "e", data: "x".repeat(10_241) }]), 413);
  },

  "what is not well-formed is 400": async () => {
    const name = fresh("public");
    const event = { name: "e", channels: [name], data: "{}" };
    const post = (path, body) => server.post({ path, body });
    await rejected(post("/events", { ...event, channels: ["not a name"] }), 400);
    await rejected(post("/events", { ...event, channels: [] }), 400);
    await rejected(post("/events", { ...event, channels: Array.from({ length: 101 }, (_, n) => `${name}-${n}`) }), 400);
    await rejected(post("/events", { ...event, name: undefined }), 400);
    await rejected(post("/events", { ...event, name: "pusher:fake" }), 400);
    await rejected(post("/events", { ...event, data: undefined }), 400);
    await rejected(post("/events", { ...event, socket_id: "not an id" }), 400);
    await rejected(
      server.triggerBatch(Array.from({ length: 11 }, () => ({ channel: name, name: "e", data: 1 }))),
      400,
      /Batch too large \(11 > 10\)/,
    );
  },

  "a batch with one bad item publishes nothing": async () => {
    const pusher = await connect();
    const channel = await subscribe(pusher, fresh("public"));
    const events = inbox(channel);
    const marker = next(channel, "marker");
    await rejected(
      server.triggerBatch([
        { channel: channel.name, name: "e", data: 1 },
        { channel: "not a name", name: "e", data: 2 },
      ]),
      400,
    );
    await server.trigger(channel.name, "marker", {});
    await marker;
    equal(events, [["marker", {}]], "events");
  },
});

/** A presence channel of two users on three connections, and a public channel of one. */
async function crowd() {
  const [room, lobby] = [fresh("presence"), fresh("lobby")];
  const ada = await connect({ member: { user_id: "ada" } });
  await subscribe(ada, lobby);
  await subscribe(ada, room);
  await subscribe(await connect({ member: { user_id: "ada" } }), room);
  await subscribe(await connect({ member: { user_id: 10 } }), room);
  return { room, lobby };
}
