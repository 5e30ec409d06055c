// Proves that end-to-end encrypted channels pass through edge untouched: the server library encrypts, pusher-js 8
// (whose Node build is the one with encryption) decrypts, and edge, which knows no key, carries the bytes between them.

import { connect, equal, fresh, inbox, next, run, serverLibrary, subscribe, succeeded } from "./lib.mjs";

const master = "OHRXNUZRTG5pUTFzQlFGd3J3N3Q2VFZFc0paZDEweVk=";
const server = serverLibrary({ encryptionMasterKeyBase64: master });

run({
  "an event on private-encrypted- is decrypted": async () => {
    const channel = await subscribe(await connect({ signer: server }), fresh("private-encrypted"));
    for (const data of [{ text: "for your eyes only, é \u{1F512}" }, "plain", "x".repeat(7000)]) {
      const received = next(channel, "secret");
      await server.trigger(channel.name, "secret", data);
      equal(await received, data, "decrypted data");
    }
  },

  "a batch may hold encrypted events": async () => {
    const pusher = await connect({ signer: server });
    const [sealed, open] = [
      await subscribe(pusher, fresh("private-encrypted")),
      await subscribe(pusher, fresh("public")),
    ];
    const received = [next(sealed, "e"), next(open, "e")];
    await server.triggerBatch([
      { channel: sealed.name, name: "e", data: { n: 1 } },
      { channel: open.name, name: "e", data: { n: 2 } },
    ]);
    equal(await Promise.all(received), [{ n: 1 }, { n: 2 }], "data of both");
  },

  "private-encrypted-cache- replays the ciphertext": async () => {
    const name = fresh("private-encrypted-cache");
    await server.trigger(name, "secret", { n: 1 });
    const channel = (await connect({ signer: server })).subscribe(name);
    const cached = next(channel, "secret");
    await succeeded(channel);
    equal(await cached, { n: 1 }, "decrypted cached event");

    const live = next(channel, "secret");
    await server.trigger(name, "secret", { n: 2 });
    equal(await live, { n: 2 }, "decrypted live event");
  },

  "an empty private-encrypted-cache- reports a miss": async () => {
    const channel = (await connect({ signer: server })).subscribe(fresh("private-encrypted-cache"));
    await Promise.all([succeeded(channel), next(channel, "pusher:cache_miss")]);
  },

  "a bad signature is refused": async () => {
    const forger = serverLibrary({ encryptionMasterKeyBase64: master, secret: "not the secret" });
    const channel = (await connect({ signer: forger })).subscribe(fresh("private-encrypted"));
    equal((await next(channel, "pusher:subscription_error")).status, 401, "status of the subscription_error");
  },

  "someone with another master key joins but cannot read": async () => {
    const stranger = serverLibrary({ encryptionMasterKeyBase64: Buffer.alloc(32, 7).toString("base64") });
    const name = fresh("private-encrypted");
    const channel = await subscribe(await connect({ signer: stranger }), name);
    const events = inbox(channel);
    const marker = next(channel, "marker");
    await server.trigger(name, "secret", { n: 1 });
    await stranger.trigger(name, "marker", {});
    await marker;
    equal(events, [["marker", {}]], "what the stranger could read");
  },
});
