// Proves that an old client, pusher-js 4.3.1 (2018), still works with edge unchanged: public, private and presence
// channels, members, client events and a refusal that leaves the connection usable.

import Pusher from "pusher-js-4";
import {
  address,
  connected,
  edge,
  equal,
  fresh,
  inbox,
  next,
  run,
  server,
  serverLibrary,
  subscribe,
  track,
  watch,
} from "./lib.mjs";

watch(Pusher);

/** A connected pusher-js 4 client; this version takes an `authorizer` where later ones take a `customHandler`. */
function connect({ member, signer = server } = {}) {
  const authorizer = ({ name }) => ({
    authorize: (socketId, callback) =>
      callback(false, signer.authorizeChannel(socketId, name, name.startsWith("presence-") ? member : undefined)),
  });
  return connected(track(new Pusher(edge.key, { ...address, disableStats: true, authorizer })));
}

run({
  "public and private channels deliver what is triggered": async () => {
    const pusher = await connect();
    for (const kind of ["public", "private"]) {
      const channel = await subscribe(pusher, fresh(kind));
      const received = next(channel, "greeting");
      await server.trigger(channel.name, "greeting", { text: "héllo" });
      equal(await received, { text: "héllo" }, `data on ${kind}`);
    }
  },

  "presence: me, count, member_added and member_removed": async () => {
    const name = fresh("presence");
    const first = await subscribe(await connect({ member: { user_id: "ada", user_info: { name: "Ada" } } }), name);
    const added = next(first, "pusher:member_added");
    const second = await connect({ member: { user_id: "bob", user_info: { name: "Bob" } } });
    const { members } = await subscribe(second, name);
    equal([members.count, members.me], [2, { id: "bob", info: { name: "Bob" } }], "count and me");
    equal(members.members, { ada: { name: "Ada" }, bob: { name: "Bob" } }, "hash");
    equal(await added, { id: "bob", info: { name: "Bob" } }, "member_added");

    const removed = next(first, "pusher:member_removed");
    second.disconnect();
    equal((await removed).id, "bob", "member_removed");
    equal(first.members.count, 1, "count after member_removed");
  },

  "client events reach the others and not the sender": async () => {
    const [ada, bob] = [await connect({ member: { user_id: "ada" } }), await connect({ member: { user_id: "bob" } })];
    for (const kind of ["private", "presence"]) {
      const name = fresh(kind);
      const [receiver, sender] = [await subscribe(ada, name), await subscribe(bob, name)];
      const own = inbox(sender);
      const received = next(receiver, "client-typing");
      sender.trigger("client-typing", { keys: 3 });
      equal(await received, { keys: 3 }, `client event on ${kind}`);
      const marker = next(sender, "marker");
      await server.trigger(name, "marker", {});
      await marker;
      equal(own, [["marker", {}]], `what the sender itself got on ${kind}`);
    }
  },

  "a bad signature is refused and the connection stays usable": async () => {
    const pusher = await connect({ signer: serverLibrary({ secret: "not the secret" }) });
    equal((await next(pusher.subscribe(fresh("private")), "pusher:subscription_error")).status, 401, "status");
    await subscribe(pusher, fresh("public"));
  },

  "an excluded socket_id gets nothing, unsubscribe ends delivery": async () => {
    const pusher = await connect();
    const channel = await subscribe(pusher, fresh("public"));
    const events = inbox(channel);
    const marker = next(channel, "marker");
    await server.trigger(channel.name, "secret", 1, { socket_id: pusher.connection.socket_id });
    await server.trigger(channel.name, "marker", 2);
    await marker;
    pusher.unsubscribe(channel.name);
    const other = await subscribe(pusher, fresh("public")); // answered after the unsubscribe was handled
    const last = next(other, "last");
    await server.trigger([channel.name, other.name], "last", 3);
    await last;
    equal(events, [["marker", 2]], "events of the channel");
  },
});
