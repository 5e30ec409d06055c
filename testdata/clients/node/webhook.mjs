// Proves that the official Node server library validates and reads the webhooks of edge unchanged: all seven events
// with exactly their fields, in the order in which they happened and nothing between them, quick returns that tell
// nothing, and forgeries that it refuses. edge has to send them to EDGE_WEBHOOK_PORT, to this script alone, with
// -subscription-count and a short -webhook-grace.

import http from "node:http";
import { called, connect, edge, equal, fresh, next, run, server, serverLibrary, setting, subscribe } from "./lib.mjs";

// ---- the receiver ----

const inbox = []; // events that no step has expected yet
let delivery; // the last request, as the library wants it
let wake = () => {};

http
  .createServer(async (request, response) => {
    const rawBody = Buffer.concat(await request.toArray()).toString();
    const webhook = server.webhook({ headers: request.headers, rawBody });
    response.on("finish", () => {
      delivery = { headers: request.headers, rawBody };
      inbox.push(...(webhook.isValid() ? webhook.getEvents() : [{ invalid: delivery }]));
      wake();
    });
    response.writeHead(webhook.isValid() ? 200 : 401).end();
  })
  .listen(Number(setting("EDGE_WEBHOOK_PORT")), "127.0.0.1");

/** Waits until these are the events that have come since the last call, in this order. */
async function told(...events) {
  const enough = () => inbox.length >= events.length;
  if (!enough()) {
    await called((done) => (wake = () => enough() && done()), `${JSON.stringify(events)}; so far ${JSON.stringify(inbox)}`);
  }
  equal(inbox.splice(0, events.length), events, "webhook events");
}

// ---- the events ----

const occupied = (channel) => ({ name: "channel_occupied", channel });
const vacated = (channel) => ({ name: "channel_vacated", channel });
const added = (channel, user_id) => ({ name: "member_added", channel, user_id });
const removed = (channel, user_id) => ({ name: "member_removed", channel, user_id });
const cacheMiss = (channel) => ({ name: "cache_miss", channel });
const counted = (channel, subscription_count) => ({ name: "subscription_count", channel, subscription_count });

await run({
  "a channel is occupied, counted and vacated": async () => {
    const [ada, bob] = [await connect(), await connect()];
    for (const kind of ["public", "private"]) {
      const name = fresh(kind);
      await subscribe(ada, name);
      await told(occupied(name), counted(name, 1));
      await subscribe(bob, name);
      await told(counted(name, 2));
      ada.unsubscribe(name);
      await told(counted(name, 1));
      bob.unsubscribe(name);
      await told(counted(name, 0), vacated(name));
    }
  },

  "an encrypted channel is one like others": async () => {
    const pusher = await connect({
      signer: serverLibrary({ encryptionMasterKeyBase64: Buffer.alloc(32, 7).toString("base64") }),
    });
    const name = fresh("private-encrypted");
    await subscribe(pusher, name);
    await told(occupied(name), counted(name, 1));
    pusher.unsubscribe(name);
    await told(counted(name, 0), vacated(name));
  },

  "a member comes once and goes once, whatever the number of connections": async () => {
    const name = fresh("presence");
    const join = async (user_id) => {
      const pusher = await connect({ member: { user_id, user_info: { name: "not told" } } });
      await subscribe(pusher, name);
      return pusher;
    };
    const ada = await join('ä"d\\a');
    await told(occupied(name), added(name, 'ä"d\\a'));
    const again = await join('ä"d\\a');
    const bob = await join(10);
    await told(added(name, "10"));
    ada.disconnect();
    bob.unsubscribe(name);
    await told(removed(name, "10"));
    again.disconnect();
    await told(removed(name, 'ä"d\\a'), vacated(name));
  },

  "client events tell what was sent, and by whom": async () => {
    const pusher = await connect({ member: { user_id: 10 } });
    const socket_id = pusher.connection.socket_id;
    const [room, desk] = [await subscribe(pusher, fresh("presence")), await subscribe(pusher, fresh("private"))];
    await told(occupied(room.name), added(room.name, "10"), occupied(desk.name), counted(desk.name, 1));
    const object = { text: '<b>é\u{1F512}"\\</b>', n: [1.5, null] };
    for (const [sent, data] of [
      [object, JSON.stringify(object)],
      ["plain é", "plain é"],
      ["", ""],
      [true, "true"],
    ]) {
      const event = { name: "client_event", event: "client-é", data, socket_id };
      desk.trigger("client-é", sent);
      await told({ ...event, channel: desk.name });
      room.trigger("client-é", sent);
      await told({ ...event, channel: room.name, user_id: "10" });
    }
    pusher.unsubscribe(desk.name);
    pusher.unsubscribe(room.name);
    await told(counted(desk.name, 0), vacated(desk.name), removed(room.name, "10"), vacated(room.name));
  },

  "an empty cache is told once, until it was filled": async () => {
    const pushers = [await connect(), await connect(), await connect()];
    const name = fresh("cache");
    const join = async (n) => {
      const channel = pushers[n].subscribe(name);
      await next(channel, "pusher:subscription_succeeded");
    };
    await join(0);
    await told(occupied(name), cacheMiss(name), counted(name, 1));
    await join(1);
    await told(counted(name, 2));
    await server.trigger(name, "e", {}); // events of the API are not told
    await join(2);
    await told(counted(name, 3));
    for (const [n, pusher] of pushers.entries()) {
      pusher.unsubscribe(name);
      await told(counted(name, 2 - n));
    }
    await told(vacated(name));
  },

  "who leaves and returns was never gone": async () => {
    const pusher = await connect({ member: { user_id: "ada" } });
    const [room, marker] = [fresh("presence"), fresh("presence")];
    for (const name of [room, marker]) {
      await subscribe(pusher, name);
      await told(occupied(name), added(name, "ada"));
    }
    pusher.unsubscribe(room);
    await subscribe(pusher, room);
    pusher.unsubscribe(marker); // is told when the grace period of the room is over
    await told(removed(marker, "ada"), vacated(marker));
    pusher.unsubscribe(room);
    await told(removed(room, "ada"), vacated(room));
  },

  "the library refuses what edge did not sign": async () => {
    const { headers, rawBody } = delivery;
    const valid = (lib, changes = {}, ...extra) => lib.webhook({ headers, rawBody, ...changes }).isValid(...extra);
    equal(valid(server), true, "validity of the delivery");
    equal(valid(server, { rawBody: rawBody.replace("ada", "eve") }), false, "validity with another user");
    equal(valid(server, { rawBody: `${rawBody} ` }), false, "validity with one more byte");
    equal(valid(server, { headers: { ...headers, "x-pusher-key": "other" } }), false, "validity with another key");
    equal(valid(serverLibrary({ secret: "other" })), false, "validity with another secret");
    const renewed = serverLibrary({ key: "new", secret: "new" });
    equal(valid(renewed), false, "validity with a new key");
    equal(valid(renewed, {}, edge), true, "validity with the old key besides a new one");
  },

  "the time is the time of the delivery": async () => {
    const webhook = server.webhook(delivery);
    equal(Number.isInteger(webhook.getData().time_ms), true, `time_ms ${webhook.getData().time_ms} is a whole number`);
    const age = Date.now() - webhook.getTime();
    equal(age >= -1000 && age < 600_000, true, `${age} ms are a plausible age`);
    equal(Object.keys(webhook.getData()), ["time_ms", "events"], "fields of the body");
  },

  "nothing more was told": async () => equal(inbox, [], "further events"),
});
