// Proves that the receiver in the README works as printed there, with edge's key and the port EDGE_WEBHOOK_PORT put in
// its place: it prints the events of real deliveries, and answers 401 to a forged one.

import { spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import { inspect } from "node:util";
import { called, connect, edge, equal, fresh, run, setting, subscribe } from "./lib.mjs";

const port = setting("EDGE_WEBHOOK_PORT");

const readme = await readFile(new URL("../../../README.md", import.meta.url), "utf8");
const printed = readme.match(/```js\n(?:(?!```)[^])*pusher\.webhook\((?:(?!```)[^])*/)[0].slice("```js\n".length);
const source = [
  ['key: "k"', `key: "${edge.key}"`],
  ['secret: "s"', `secret: "${edge.secret}"`],
  ["listen(4000)", `listen(${port})`],
].reduce((text, [from, to]) => {
  equal(text.split(from).length, 2, `${from} in the README's receiver: parts around it`);
  return text.replace(from, to);
}, printed);

let output = "";
let wake = () => {};
const receiver = spawn(process.execPath, ["--input-type=module"], { stdio: ["pipe", "pipe", "inherit"] });
process.on("exit", () => receiver.kill());
receiver.stdin.end(source); // read from there, it finds what is installed here
receiver.stdout.setEncoding("utf8").on("data", (text) => {
  output += text;
  wake();
});

/** Waits until the receiver has printed these events and nothing else since the last call. */
async function prints(...events) {
  const want = events.map((event) => `${inspect(event)}\n`).join("");
  if (output.length < want.length) {
    await called((done) => (wake = () => output.length >= want.length && done()), `the output ${want}`);
  }
  equal(output, want, "output");
  output = "";
}

await run({
  "it accepts what edge tells": async () => {
    const pusher = await connect({ member: { user_id: "ada" } });
    const channel = fresh("presence");
    await subscribe(pusher, channel);
    await prints({ name: "channel_occupied", channel }, { name: "member_added", channel, user_id: "ada" });
    pusher.unsubscribe(channel);
    await prints({ name: "member_removed", channel, user_id: "ada" }, { name: "channel_vacated", channel });
  },

  "it refuses a forgery": async () => {
    const headers = {
      "content-type": "application/json",
      "x-pusher-key": edge.key,
      "x-pusher-signature": "0".repeat(64),
    };
    const body = JSON.stringify({ time_ms: Date.now(), events: [{ name: "channel_occupied", channel: "forged" }] });
    const { status } = await fetch(`http://127.0.0.1:${port}/hook`, { method: "POST", headers, body });
    equal(status, 401, "status");
    equal(output, "", "output");
  },
});
