// What every script here shares: where edge listens, the official server library and client bound to it,
// waiting for events, and a runner that ends the process with 0, or with 1 and one line that says why.
//
// Waiting never sleeps: `next` listens for an event and gives up after two minutes, a time that only a failure reaches.
// That something does NOT arrive is shown by a later event on the same channel, since a channel keeps its order.

import { createHash } from "node:crypto";
import { inspect, isDeepStrictEqual } from "node:util";
import PusherClient from "pusher-js";
import PusherServer from "pusher";

export const TIMEOUT_MS = 120_000; // for any one answer

export const edge = {
  host: setting("EDGE_HOST"),
  port: Number(setting("EDGE_PORT")),
  appId: setting("EDGE_APP_ID"),
  key: setting("EDGE_KEY"),
  secret: setting("EDGE_SECRET"),
};

/** Whether edge speaks TLS; NODE_EXTRA_CA_CERTS then names the authority. */
const tls = process.env.EDGE_TLS === "1";

/** What the environment variable says; without it there is nothing to do. */
export function setting(name) {
  if (process.env[name]) return process.env[name];
  console.log(`FAIL: the environment variable ${name} is not set`);
  process.exit(1);
}

/** An error that is an unmet expectation, so that its message needs no stack trace. */
class Unmet extends Error {}

// ---- the two sides ----

/** The official server library, bound to edge. */
export function serverLibrary(options = {}) {
  return new PusherServer({ ...edge, useTLS: tls, timeout: TIMEOUT_MS, ...options });
}

export const server = serverLibrary();

/** What a client needs to know to find edge; good for pusher-js 4 and 8 and for laravel-echo. */
export const address = {
  cluster: "",
  wsHost: edge.host,
  wsPort: edge.port,
  wssPort: edge.port,
  forceTLS: tls,
  enabledTransports: ["ws", "wss"],
  unavailableTimeout: TIMEOUT_MS, // a connection may take as long before it changes its state,
  unavailable_timeout: TIMEOUT_MS, // which pusher-js 4 calls so
};

const log = []; // what the client libraries say they do; printed when an expectation fails
const open = []; // clients to disconnect after each step

/** Makes a client library tell its story to the log, and disconnects its clients after each step. */
export function watch(Pusher) {
  Pusher.log = (line) => log.push(line);
}

watch(PusherClient);

/**
 * A pusher-js 8 client that does not wait to be connected. `member` is its data on presence channels and `user` the
 * user it signs in as; `signer` authorizes it, which is `server` except where a test wants a bad signature.
 */
export function start({ key = edge.key, member, user, signer = server, ...options } = {}) {
  const channelAuthorization = {
    customHandler: ({ socketId, channelName }, callback) =>
      callback(
        null,
        signer.authorizeChannel(socketId, channelName, channelName.startsWith("presence-") ? member : undefined),
      ),
  };
  const userAuthentication = {
    customHandler: ({ socketId }, callback) => callback(null, signer.authenticateUser(socketId, user)),
  };
  return track(new PusherClient(key, { ...address, channelAuthorization, userAuthentication, ...options }));
}

/** Remembers a client so that it is disconnected when the step is over. */
export function track(pusher) {
  open.push(pusher);
  return pusher;
}

/** A connected pusher-js 8 client. */
export async function connect(options) {
  return connected(start(options));
}

export async function connected(pusher) {
  if (pusher.connection.state !== "connected") await next(pusher.connection, "connected");
  return pusher;
}

/** Subscribes and waits for success; a refusal fails at once instead of after the time limit. */
export async function subscribe(pusher, name) {
  const channel = pusher.subscribe(name);
  await succeeded(channel);
  return channel;
}

export function succeeded(channel) {
  const refused = new Promise((_, reject) =>
    channel.bind("pusher:subscription_error", (why) =>
      reject(new Unmet(`${channel.name} was refused: ${inspect(why)}`)),
    ),
  );
  return Promise.race([next(channel, "pusher:subscription_succeeded"), refused]);
}

// ---- waiting and comparing ----

/** Resolves with the data of the next `event` that `accept` agrees to. Bind before the event can happen. */
export async function next(
  emitter,
  event,
  accept = () => true,
  what = emitter.name ? `${event} on ${emitter.name}` : event,
) {
  return (await called((done) => emitter.bind(event, (...args) => accept(...args) && done(...args)), what))[0];
}

/** Resolves with the arguments of the first call of the callback that `register` is handed. */
export function called(register, what = String(register)) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Unmet(`nothing within ${TIMEOUT_MS / 1000} s: ${what}`)), TIMEOUT_MS);
    register((...args) => {
      clearTimeout(timer);
      resolve(args);
    });
  });
}

/** Resolves once the connection receives a frame for which `accept` is true. */
export function nextFrame(pusher, accept) {
  return next(pusher.connection, "message", accept, `frame with ${accept}`);
}

/** Resolves when the connection reports the given Pusher error code, from an event or from a close frame. */
export function nextError(pusher, code) {
  return next(pusher.connection, "error", (err) => (err.error ?? err).data?.code === code, `error ${code}`);
}

/** Every application event the channel delivers from now on, as [name, data], in order. */
export function inbox(channel) {
  const events = [];
  channel.bind_global((event, data) => event.startsWith("pusher") || events.push([event, data]));
  return events;
}

/** Fails unless `got` deeply equals `want`. */
export function equal(got, want, what) {
  if (!isDeepStrictEqual(got, want)) throw new Unmet(`${what}: got ${show(got)}, want ${show(want)}`);
}

const show = (value) => inspect(value, { depth: 6, breakLength: Infinity, compact: true, maxStringLength: 300 });

/** Fails unless `ask` rejects with the HTTP status and, if given, a body that matches. */
export async function rejected(ask, status, body = /(?:)/) {
  const err = await ask.then(
    () => undefined,
    (err) => err,
  );
  if (err === undefined) throw new Unmet(`the request succeeded, want status ${status}`);
  equal(err.status, status, `status of the refusal (body ${show(err.body ?? err.error)})`);
  if (!body.test(err.body)) throw new Unmet(`the body ${show(err.body)} does not match ${body}`);
}

const tag = Math.random().toString(36).slice(2, 8);
let names = 0;

/** A name no other script and no earlier step uses, so that all can share one server. */
export function fresh(prefix) {
  return `${prefix}-${tag}-${++names}`;
}

/** JSON as applications send it, of at most so many bytes and not many fewer; another one for each n. */
export function orders(n, bytes) {
  const list = [];
  for (let i = n * 1_000; ; i++) {
    const hash = createHash("sha256").update(String(i)).digest("hex"); // as good as random, and the same every time
    const customer = ["Zoë", "Jörg", "O\"Neill", "李小龙", "😀 Ltd"][parseInt(hash.slice(0, 2), 16) % 5];
    list.push({ id: hash.slice(0, 12), n: i, status: i % 3 ? "shipped" : "pending", customer, total: parseInt(hash.slice(-4), 16) / 100, currency: "EUR" });
    if (Buffer.byteLength(JSON.stringify(list)) > bytes) return JSON.stringify(list.slice(0, -1));
  }
}

// ---- running ----

/** Runs the steps in order and exits: with 0, or with 1 at the first unmet expectation. */
export async function run(steps) {
  let name;
  process.on("unhandledRejection", (err) => fail(name, err));
  for (name of Object.keys(steps)) {
    try {
      await steps[name]();
    } catch (err) {
      fail(name, err);
    }
    open.splice(0).forEach((pusher) => pusher.disconnect());
    log.length = 0;
  }
  console.log(`ok: ${Object.keys(steps).join("; ")}`);
  process.exit(0);
}

function fail(name, err) {
  console.log(`FAIL: ${name}: ${err?.message ?? inspect(err)}`);
  if (!(err instanceof Unmet)) console.log(err);
  if (log.length > 0) console.log(`The client libraries' last words:\n  ${log.slice(-30).join("\n  ")}`);
  process.exit(1);
}
