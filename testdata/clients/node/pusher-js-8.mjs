// Proves that pusher-js 8 works with edge unchanged: every kind of channel (encrypted ones have their own script),
// client events, presence, cache, subscription counts, refusals, users and their watchlists, and liveness.
// The server has to run with -subscription-count.

import {
  called,
  connect,
  equal,
  fresh,
  inbox,
  next,
  nextError,
  nextFrame,
  run,
  server,
  serverLibrary,
  start,
  subscribe,
  succeeded,
} from "./lib.mjs";

const forger = serverLibrary({ secret: "not the secret" });

run({
  "an unknown key is refused with 4001 and not tried again": async () => {
    const pusher = start({ key: "no-such-key" });
    const states = [];
    pusher.connection.bind("state_change", ({ current }) => states.push(current));
    const refusal = nextError(pusher, 4001);
    await next(pusher.connection, "disconnected"); // a client that means to retry stays in "connecting"
    await refusal;
    equal(states, ["disconnected"], "states after connecting");
  },

  "a public channel delivers what is triggered": async () => {
    const pusher = await connect();
    const channel = await subscribe(pusher, fresh("public"));
    for (const data of [
      { text: "héllo \u{1F44B}", 'quote"': "\\\u0000\u2028" },
      "plain text",
      [1, 2.5, null],
      "{not json",
    ]) {
      const received = next(channel, "greeting");
      await server.trigger(channel.name, "greeting", data);
      equal(await received, data, "data of the event");
    }
  },

  "a private channel needs a signature": async () => {
    const pusher = await connect();
    const channel = await subscribe(pusher, fresh("private"));
    const received = next(channel, "App\\Events\\Shipped");
    await server.trigger(channel.name, "App\\Events\\Shipped", { order: 1 });
    equal(await received, { order: 1 }, "data of the event");
  },

  "a bad signature is a subscription_error and the connection stays usable": async () => {
    const pusher = await connect({ signer: forger, member: { user_id: "1" } });
    for (const kind of ["private", "presence", "private-cache"]) {
      const refusal = await next(pusher.subscribe(fresh(kind)), "pusher:subscription_error");
      equal([refusal.type, refusal.status], ["AuthError", 401], `type and status of the ${kind} subscription_error`);
    }
    const channel = await subscribe(pusher, fresh("public"));
    const received = next(channel, "after");
    await server.trigger(channel.name, "after", "all is well");
    equal(await received, "all is well", "data after the refusals");
    equal(pusher.connection.state, "connected", "state after the refusals");
  },

  "presence: me, count, hash, member_added and member_removed": async () => {
    const name = fresh("presence");
    const [ada, bob] = [
      { user_id: "ada", user_info: { name: "Ada" } },
      { user_id: "bob", user_info: { name: "Bob" } },
    ];
    const first = await subscribe(await connect({ member: ada }), name);
    equal([first.members.count, first.members.me], [1, { id: "ada", info: ada.user_info }], "count and me when alone");

    const added = next(first, "pusher:member_added");
    const second = await connect({ member: bob });
    const { members } = await subscribe(second, name);
    equal(members.members, { ada: ada.user_info, bob: bob.user_info }, "hash the second member sees");
    equal([members.count, members.me], [2, { id: "bob", info: bob.user_info }], "count and me of the second member");
    equal(await added, { id: "bob", info: bob.user_info }, "member_added");
    equal(first.members.count, 2, "count after member_added");

    let removed = next(first, "pusher:member_removed");
    second.unsubscribe(name);
    equal(await removed, { id: "bob", info: bob.user_info }, "member_removed after unsubscribe");
    equal(first.members.count, 1, "count after member_removed");

    const again = next(first, "pusher:member_added");
    await subscribe(second, name);
    await again;
    removed = next(first, "pusher:member_removed");
    second.disconnect();
    equal((await removed).id, "bob", "member_removed after disconnect");
  },

  "presence: two connections of one user are one member": async () => {
    const name = fresh("presence");
    const watcher = await subscribe(await connect({ member: { user_id: "watcher" } }), name);
    const seen = [];
    watcher.bind("pusher:member_added", ({ id }) => seen.push(`+${id}`));
    watcher.bind("pusher:member_removed", ({ id }) => seen.push(`-${id}`));
    const tabs = [await connect({ member: { user_id: "ada" } }), await connect({ member: { user_id: "ada" } })];
    await subscribe(tabs[0], name);
    equal((await subscribe(tabs[1], name)).members.count, 2, "distinct users the second tab sees");

    await unsubscribed(tabs[0], name);
    const last = next(watcher, "pusher:member_removed");
    tabs[1].unsubscribe(name);
    await last;
    equal(seen, ["+ada", "-ada"], "what the watcher saw of both tabs");
  },

  "presence: a numeric user_id becomes a string": async () => {
    const name = fresh("presence");
    const watcher = await subscribe(await connect({ member: { user_id: "watcher" } }), name);
    const added = next(watcher, "pusher:member_added");
    const { members } = await subscribe(
      await connect({ member: { user_id: 9007199254740991, user_info: { n: 1 } } }),
      name,
    );
    equal(Object.keys(members.members).sort(), ["9007199254740991", "watcher"], "ids in the hash");
    equal(members.me.info, { n: 1 }, "info of me");
    equal(await added, { id: "9007199254740991", info: { n: 1 } }, "member_added");
    const users = await (await server.get({ path: `/channels/${name}/users` })).json();
    equal(users.users.map(({ id }) => id).sort(), ["9007199254740991", "watcher"], "ids over HTTP");
  },

  "client events reach the others, with the sender's user_id on presence channels": async () => {
    const [ada, bob] = [await connect({ member: { user_id: "ada" } }), await connect({ member: { user_id: 10 } })];
    for (const [kind, metadata] of [
      ["private", {}],
      ["private-cache", {}],
      ["presence", { user_id: "10" }],
      ["presence-cache", { user_id: "10" }],
    ]) {
      const name = fresh(kind);
      const [receiver, sender] = [await subscribe(ada, name), await subscribe(bob, name)];
      const own = inbox(sender);
      const received = called((done) => receiver.bind("client-typing", done));
      sender.trigger("client-typing", { keys: [1, "é"] });
      equal(await received, [{ keys: [1, "é"] }, metadata], `client event on ${kind}`);

      const marker = next(sender, "marker");
      await server.trigger(name, "marker", {});
      await marker;
      equal(own, [["marker", {}]], `what the sender itself got on ${kind}`);
    }
  },

  "client events on public channels are refused, the connection stays": async () => {
    const pusher = await connect();
    const channel = await subscribe(pusher, fresh("public"));
    const refusal = next(pusher.connection, "error");
    channel.trigger("client-typing", {});
    equal((await refusal).data.code, null, "code of the pusher:error");
    await subscribe(pusher, fresh("public"));
  },

  "cache channels replay the last event or report a miss": async () => {
    const pusher = await connect({ member: { user_id: "1" } });
    for (const kind of ["cache", "private-cache", "presence-cache"]) {
      const empty = pusher.subscribe(fresh(kind));
      await Promise.all([succeeded(empty), next(empty, "pusher:cache_miss")]);

      const name = fresh(kind);
      await server.trigger(name, "price", { eur: 1 });
      await server.trigger(name, "price", { eur: 2 });
      const channel = pusher.subscribe(name);
      const events = inbox(channel);
      const marker = next(channel, "marker");
      await Promise.all([succeeded(channel), next(channel, "price")]);
      await server.trigger(name, "marker", {});
      await marker;
      equal(
        events,
        [
          ["price", { eur: 2 }],
          ["marker", {}],
        ],
        `events on ${kind}`,
      );
    }
  },

  "an excluded socket_id gets nothing, others do": async () => {
    const [ada, bob] = [await connect(), await connect()];
    const name = fresh("public");
    const channels = [await subscribe(ada, name), await subscribe(bob, name)];
    const inboxes = channels.map(inbox);
    const markers = channels.map((channel) => next(channel, "marker"));
    await server.trigger(name, "secret", 1, { socket_id: ada.connection.socket_id });
    await server.trigger(name, "marker", 2);
    await Promise.all(markers);
    equal(
      inboxes,
      [
        [["marker", 2]],
        [
          ["secret", 1],
          ["marker", 2],
        ],
      ],
      "events of the excluded and the other",
    );
  },

  "duplicate names: one delivery per event, whoever asked twice": async () => {
    const pusher = await connect();
    const channel = await subscribe(pusher, fresh("public"));
    const refusal = next(pusher.connection, "error");
    pusher.send_event("pusher:subscribe", { auth: "", channel: channel.name });
    equal(
      (await refusal).data,
      { code: null, message: `Existing subscription to channel ${channel.name}` },
      "pusher:error",
    );

    const events = inbox(channel);
    const marker = next(channel, "marker");
    await server.trigger([channel.name, channel.name], "twice", 1);
    await server.trigger(channel.name, "marker", 2);
    await marker;
    equal(
      events,
      [
        ["twice", 1],
        ["marker", 2],
      ],
      "events",
    );
  },

  "unsubscribe ends delivery, subscribing again resumes it": async () => {
    const [ada, bob] = [await connect(), await connect()];
    const name = fresh("public");
    await subscribe(ada, name); // before bob, so that edge would serve it first
    const stays = await subscribe(bob, name);
    await unsubscribed(ada, name);

    const frames = []; // below pusher-js, which itself drops what it is not subscribed to
    ada.connection.bind("message", ({ event, channel }) => channel === name && frames.push(event));
    const heard = next(stays, "missed");
    await server.trigger(name, "missed", 1);
    await heard;
    const again = await subscribe(ada, name);
    const marker = next(again, "marker");
    await server.trigger(name, "marker", 2);
    await marker;
    const delivered = frames.filter((event) => !event.startsWith("pusher_internal:"));
    equal(delivered, ["marker"], "frames after unsubscribing");
  },

  "pusher:subscription_count follows who comes and goes": async () => {
    const [ada, bob] = [await connect(), await connect()];
    const name = fresh("private");
    const count = (channel, n) =>
      next(channel, "pusher:subscription_count", ({ subscription_count }) => subscription_count === n);
    const channel = ada.subscribe(name);
    await count(channel, 1);
    const two = count(channel, 2);
    await subscribe(bob, name);
    await two;
    equal(channel.subscriptionCount, 2, "count the channel remembers");
    const one = count(channel, 1);
    bob.unsubscribe(name);
    await one;
  },

  "signin, then events to the user on every connection": async () => {
    const user = { id: fresh("user"), user_info: { name: "Ada" } };
    const tabs = [await signedIn(user), await signedIn(user)];
    equal(
      tabs.map((tab) => tab.user.user_data),
      [user, user],
      "user_data after signin",
    );
    const received = tabs.map((tab) => inbox(tab.user));
    const markers = tabs.map((tab) => next(tab.user, "marker"));
    await server.sendToUser(user.id, "invoice", { total: 3 });
    await server.sendToUser(user.id, "marker", {});
    await Promise.all(markers);
    const each = [
      ["invoice", { total: 3 }],
      ["marker", {}],
    ];
    equal(received, [each, each], "events of the user");
  },

  "an event sent as soon as signin_success arrives is not lost": async () => {
    const pusher = await connect({ user: { id: fresh("user") } });
    const success = nextFrame(pusher, ({ event }) => event === "pusher:signin_success");
    const invoice = next(pusher.user, "invoice");
    pusher.signin();
    await success;
    await server.sendToUser(pusher.user.user_data.id, "invoice", { total: 3 });
    equal(await invoice, { total: 3 }, "data of the event");
  },

  "a forged signin is an error and the connection stays usable": async () => {
    const pusher = await connect({ signer: forger, user: { id: "mallory" } });
    const refusal = next(pusher.connection, "error");
    pusher.signin();
    equal((await refusal).data.code, null, "code of the pusher:error");
    equal(pusher.user.user_data, null, "user_data");
    await subscribe(pusher, fresh("public"));
  },

  "a signed-in user joins presence channels without channel_data": async () => {
    const user = { id: fresh("user"), user_info: { name: "Ada" } };
    const { members } = await subscribe(await signedIn(user), fresh("presence"));
    equal(members.me, { id: user.id, info: user.user_info }, "me");
  },

  "watchlist events: offline, online, offline": async () => {
    const bob = fresh("bob");
    const ada = await connect({ user: { id: fresh("ada"), watchlist: [bob] } });
    const offline = next(ada.user.watchlist, "offline");
    ada.signin();
    equal((await offline).user_ids, [bob], "who is offline at first");

    const online = next(ada.user.watchlist, "online");
    const friend = await signedIn({ id: bob });
    equal((await online).user_ids, [bob], "who came online");

    const gone = next(ada.user.watchlist, "offline");
    friend.disconnect();
    equal((await gone).user_ids, [bob], "who went offline");

    await signedIn({ id: bob });
    const late = await connect({ user: { id: fresh("eve"), watchlist: [bob] } });
    const already = next(late.user.watchlist, "online");
    late.signin();
    equal((await already).user_ids, [bob], "who is online at signin");
  },

  "terminateUserConnections closes the user's connections for good, and only those": async () => {
    const id = fresh("user");
    const tabs = [await signedIn({ id }), await signedIn({ id })];
    const other = await signedIn({ id: fresh("user") });
    const closed = tabs.flatMap((tab) => [nextError(tab, 4009), next(tab.connection, "disconnected")]);
    await server.terminateUserConnections(id);
    await Promise.all(closed);
    await subscribe(other, fresh("public"));
    equal(other.connection.state, "connected", "state of another user");
  },

  "an idle client's pings are answered": async () => {
    const pusher = await connect({ activityTimeout: 100 });
    const { socket_id } = pusher.connection;
    for (let i = 0; i < 3; i++) await nextFrame(pusher, ({ event }) => event === "pusher:pong");
    equal(
      [pusher.connection.state, pusher.connection.socket_id],
      ["connected", socket_id],
      "state and socket id after three pongs",
    );
  },
});

/** A client whose signin succeeded and whose server-to-user channel is subscribed. */
async function signedIn(user) {
  const pusher = await connect({ user });
  const ready = nextFrame(
    pusher,
    ({ event, channel }) =>
      event === "pusher_internal:subscription_succeeded" && channel === `#server-to-user-${user.id}`,
  );
  pusher.signin();
  await ready;
  return pusher;
}

/** Unsubscribes and waits until the server has done it: it answers a connection's messages in order. */
async function unsubscribed(pusher, name) {
  pusher.unsubscribe(name);
  await subscribe(pusher, fresh("public"));
}
