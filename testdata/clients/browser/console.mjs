// Proves that the debug console works in a real browser: signing in, the feed, the event creator, terminating a user, the
// keyboard, copying where the browser offers no clipboard, a flood, and that axe-core finds nothing to object to.
// Needs chromium on the PATH. With EDGE_SCREENSHOTS=directory, leaves pictures there.
//
// It prints how fast the console is. That it is as fast as promised is asserted on a machine that does nothing else:
//
//	TEST_FULL=1 go test -v -run TestClients/Console .

import { mkdirSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { join } from "node:path";
import { TIMEOUT_MS, connect, edge, equal, fresh, next, run, server, setting, start, subscribe } from "../node/lib.mjs";
import { launch } from "./launch.mjs";
import { query, serve } from "./serve.mjs";

const axe = readFileSync(createRequire(new URL("../node/package.json", import.meta.url)).resolve("axe-core/axe.min.js"), "utf8");
const full = process.env.TEST_FULL === "1";
const pictures = process.env.EDGE_SCREENSHOTS;
if (pictures) mkdirSync(pictures, { recursive: true });

// edge.test is no origin that browsers trust, as an address on a local network is none.
const browser = await launch("--host-resolver-rules=MAP edge.test 127.0.0.1");
const address = `http://edge.test:${edge.port}/console`;
const seen = []; // of every request: where to, and its headers

const receiver = createServer((request, response) => request.resume().on("end", () => response.end()));
receiver.listen(Number(setting("EDGE_WEBHOOK_PORT")), "127.0.0.1");

let page; // the console, signed in from the second step on

await run({
  "a wrong secret is refused, the right one signs in": async () => {
    page = await open({ width: 1280, height: 800 });
    await page.goto(address);
    equal(await page.evaluate("isSecureContext"), false, "secure context");
    await page.getByLabel("App secret").fill("wrong");
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.getByText("This is not the secret of an app").waitFor();
    await looksGood(page, "gate");
    await page.getByLabel("App secret").fill(edge.secret);
    await page.keyboard.press("Enter");
    await page.locator("#live.on").waitFor();
    await page.reload();
    await page.locator("#live.on").waitFor(); // the session is in the cookie
    equal(await page.evaluate("document.cookie"), "", "what a script sees of the cookie");
    await page.locator("#nothing").waitFor();
  },

  "the link signs in once": async () => {
    const other = await open({ width: 800, height: 600 });
    await other.goto(address + setting("EDGE_CONSOLE_LINK"));
    await other.locator("#live.on").waitFor();
    equal(other.url(), address, "the address afterwards");
    await other.goto("about:blank");
    await other.goto(address + setting("EDGE_CONSOLE_LINK")); // from the history
    await other.locator("#live.on").waitFor();
    await other.context().close();
    const late = await open({ width: 800, height: 600 });
    await late.goto(address + setting("EDGE_CONSOLE_LINK"));
    await late.getByText("This link has been used or has expired").waitFor();
    await late.context().close();
  },

  "the feed shows a subscription, a refusal and an event within 500 ms": async () => {
    const pusher = await connect();
    const times = { subscription: [], refusal: [], event: [] };
    for (let i = 0; i < 5; i++) {
      const channel = fresh("private-feed"), refused = fresh("private-refused"), unheard = fresh("void");
      times.subscription.push(await shown(page, "Subscribed", channel, () => subscribe(pusher, channel)));
      times.refusal.push(await shown(page, "Refused", refused, () => pusher.connection.send_event("pusher:subscribe", { channel: refused, auth: `${edge.key}:bad` })));
      times.event.push(await shown(page, "Event", channel, () => server.trigger(channel, "news", { text: "<img src=x onerror=alert(1)>" })));
      await shown(page, "nobody", unheard, () => server.trigger(unheard, "news", {}));
    }
    for (const [what, all] of Object.entries(times)) {
      const middle = all.sort((a, b) => a - b)[2];
      console.log(`${what} shown after ${Math.round(middle)} ms`);
      soon(middle, 500, `${what} is shown: ${all}`);
    }
    const refusal = page.locator("li.bad", { hasText: "Invalid signature" }).first();
    await refusal.getByRole("button").click();
    await refusal.getByText("The endpoint that authorizes subscriptions has signed something else").waitFor();
    equal(await page.locator("#lines img").count(), 0, "elements made of an event's data");
  },

  "what -dev-auth signs is among the subscriptions": async () => {
    const name = fresh("private-signed"), sign = (path, params) => () => fetch(new URL(path, `http://${edge.host}:${edge.port}`), { method: "POST", body: new URLSearchParams(params) });
    await shown(page, "Signed", `${name} 1.2 by -dev-auth`, sign("/pusher/auth", { socket_id: "1.2", channel_name: name }));
    await shown(page, "Signed", "a user 1.3 by -dev-auth", sign("/pusher/user-auth", { socket_id: "1.3" }));
    await page.getByLabel("Subscriptions", { exact: true }).uncheck();
    equal(await page.locator("#lines li", { hasText: "by -dev-auth" }).count(), 0, "lines without subscriptions");
    await page.getByLabel("Subscriptions", { exact: true }).check();
  },

  "an event that reaches nobody is marked, with the channel that was meant": async () => {
    const pusher = await connect(), name = fresh("orders");
    await subscribe(pusher, `private-${name}`);
    await page.locator("#channelList", { hasText: `private-${name}` }).waitFor();
    await server.trigger(name, "paid", {});
    const line = page.locator("li.void", { hasText: name }).first();
    await line.getByRole("button").first().click();
    await line.getByText(`but 1 client to private-${name}`).waitFor();
  },

  "filters, pause and the keyboard": async () => {
    const wanted = fresh("wanted"), other = fresh("other");
    const pusher = await connect();
    await subscribe(pusher, wanted);
    await page.keyboard.press("/");
    await page.keyboard.type(wanted);
    await server.trigger([wanted, other], "tick", {});
    await page.locator("#lines li", { hasText: "tick" }).waitFor();
    equal(await page.locator("#lines li", { hasText: other }).count(), 0, "lines of the other channel");
    await page.getByLabel("Subscriptions", { exact: true }).uncheck();
    equal(await page.locator("#lines li").count(), 1, "lines without subscriptions");
    await page.getByLabel("Subscriptions", { exact: true }).check();
    await page.getByLabel("Only what went wrong").check();
    equal(await page.locator("#lines li").count(), 0, "lines of what went wrong");
    await page.getByLabel("Only what went wrong").uncheck();
    await page.getByLabel("Event", { exact: true }).first().fill("tick");
    equal(await page.locator("#lines li").count(), 1, "lines of the event");
    await page.getByLabel("Event", { exact: true }).first().fill("");
    await page.keyboard.press("Escape");
    await page.keyboard.press("p");
    await page.getByRole("button", { name: "Go on" }).waitFor();
    await server.trigger(wanted, "later", {});
    await page.getByText(/lines? since/).waitFor();
    equal(await page.locator("#lines li", { hasText: "later" }).count(), 0, "lines while paused");
    await page.getByLabel("API calls", { exact: true }).uncheck();
    await page.getByLabel("API calls", { exact: true }).check();
    equal(await page.locator("#lines li", { hasText: "tick" }).count(), 1, "lines from before, when the filter has changed");
    equal(await page.locator("#lines li", { hasText: "later" }).count(), 0, "lines while paused, when the filter has changed");
    await page.keyboard.press("p");
    await page.locator("#lines li", { hasText: "later" }).waitFor();
    equal(await page.locator("#lines li", { hasText: "later" }).count(), 1, "lines of one event");
    await page.keyboard.press("j");
    await page.keyboard.press("Enter");
    await page.locator("#lines li", { hasText: "later" }).locator("pre").waitFor();
    await page.getByLabel("Channel").first().fill("");
    await page.keyboard.press("Escape"); // leaves the field
    await page.keyboard.press("?");
    await page.getByRole("dialog").waitFor();
    await page.keyboard.press("Escape");
  },

  "a payload is copied without a clipboard": async () => {
    const name = fresh("copy");
    await server.trigger(name, "copied", { deep: { list: [1, 2] } });
    const line = page.locator("#lines li", { hasText: name }).first();
    await line.getByRole("button").first().click();
    equal(await line.locator("pre").textContent(), JSON.stringify({ deep: { list: [1, 2] } }, null, 2), "payload");
    await had(line, "Copied", () => line.getByRole("button", { name: "Copy payload" }).click());
    await page.getByLabel("Data, as JSON").fill("");
    await page.getByLabel("Data, as JSON").press("Control+v");
    await page.waitForFunction("document.getElementById('toData').value");
    equal(await page.getByLabel("Data, as JSON").inputValue(), JSON.stringify({ deep: { list: [1, 2] } }, null, 2), "what was copied");
  },

  "a payload is shown and sent again as it was written": async () => {
    const name = fresh("exact"), data = page.getByLabel("Data, as JSON");
    const written = '{"id":12345678901234567890, "price":1.50,"b":[1,[],{}],"2":"a, \\"{b\\": \\\\"}';
    const shown = '{\n  "id": 12345678901234567890,\n  "price": 1.50,\n  "b": [\n    1,\n    [],\n    {}\n  ],\n  "2": "a, \\"{b\\": \\\\"\n}';
    const opened = async (event, payload) => {
      await server.trigger(name, event, payload);
      const line = page.locator("#lines li", { hasText: name }).filter({ hasText: event });
      await line.getByRole("button").first().click();
      return line;
    };
    const line = await opened("numbers", written);
    equal(await line.locator("pre").textContent(), shown, "payload");
    await line.getByRole("button", { name: "Send again…" }).click();
    equal(await data.inputValue(), shown, "what is sent again");
    await data.fill(written);
    await page.getByRole("button", { name: "Format" }).click();
    equal(await data.inputValue(), shown, "what Format makes of it");
    await (await opened("text", 'say "hello"')).getByRole("button", { name: "Send again…" }).click();
    equal(await data.inputValue(), '"say \\"hello\\""', "a text that is sent again");
    await page.locator("#dataError", { hasText: /^$/ }).waitFor({ state: "attached" });
    await page.evaluate((l) => take(l), { at: 0, what: "event", channel: name, event: "cut", reached: 1, size: 20_000, data: "{" });
    const cut = page.locator("#lines li", { hasText: name }).filter({ hasText: "cut" });
    await cut.getByRole("button").first().click();
    await cut.getByRole("button", { name: "Copy line" }).waitFor();
    equal(await cut.getByRole("button", { name: "Send again…" }).count(), 0, "ways to send again what was cut");
    await page.locator("#toChannel").fill("");
  },

  "an event that is created reaches a page with pusher-js": async () => {
    const ada = await open({ width: 960, height: 540 });
    await ada.goto(`${await serve()}?${query}&name=Ada`);
    await ada.locator("#presence li", { hasText: "Ada (you)" }).waitFor();
    await ada.locator("#public [role=status]", { hasText: "joined" }).waitFor();
    await page.bringToFront();
    await page.keyboard.press("Escape");
    await page.keyboard.press("e");
    await page.keyboard.type("news");
    await page.locator("#toEvent").fill("message");
    await page.getByLabel("Data, as JSON").fill('{"from": "console", "text": }');
    await page.getByRole("button", { name: "Send event" }).click();
    await page.getByText("This is not JSON").waitFor();
    await page.getByLabel("Data, as JSON").fill('{"from": "console", "text": "hello"}');
    await page.getByLabel("Data, as JSON").press("Control+Enter");
    await page.getByText("Given to 1 subscription.").waitFor();
    await ada.locator("#public li", { hasText: "console: hello" }).waitFor();
    await page.locator("#toChannel").fill(fresh("nowhere"));
    await page.getByRole("button", { name: "Send event" }).click();
    await page.getByText("It reached nobody").waitFor();
    await page.locator("#toChannel").fill("not a name!");
    await page.getByRole("button", { name: "Send event" }).click();
    await page.getByText("Invalid channel name").waitFor();
    await page.getByText("History").click();
    await page.locator("#history button", { hasText: "message on news" }).click();
    equal(await page.locator("#toChannel").inputValue(), "news", "channel from the history");

    await page.locator("#channelList .open", { hasText: "presence-" }).first().click();
    await page.getByRole("button", { name: "Terminate user Ada" }).click();
    await page.locator("#lines li", { hasText: "You got disconnected by the app." }).first().waitFor();
    await ada.locator("#state", { hasText: /^(?!connected)/ }).waitFor();
    await ada.close();
  },

  "a page out of sight leaves its connection to others, and what is not answered is said": async () => {
    const other = await open({ width: 1000, height: 700 }, page.context());
    await other.clock.install();
    await other.goto(address);
    await other.locator("#live.on").waitFor();
    await other.evaluate("past.push([-1, 0, 0, 0, 0])"); // a second of now
    const ended = other.waitForEvent("requestfailed", (request) => request.url().endsWith("/feed"));
    await turn(other, "hidden");
    await other.clock.fastForward(29_000);
    equal(await other.locator("#live.on").count(), 1, "feeds after 29 seconds");
    await other.clock.fastForward(1_000);
    await ended;
    const again = other.waitForResponse((response) => response.url().endsWith("/feed"));
    await turn(other, "visible");
    await again;
    await other.getByText("This page was out of sight").waitFor();
    equal(await other.evaluate("past.some((second) => second[0] < 0)"), false, "seconds from before on the charts");
    await shown(other, "Event", "seen-again", () => server.trigger("seen-again", "news", {}));

    await other.route("**/trigger", () => {}); // as a browser does that has no connection left
    await other.locator("#toChannel").fill("news");
    await other.locator("#toEvent").fill("message");
    const asked = other.waitForRequest("**/trigger");
    await other.getByRole("button", { name: "Send event" }).click();
    await asked;
    await other.clock.fastForward(15_000);
    await other.locator("#sent", { hasText: "No answer for 15 seconds" }).waitFor();
    await other.close();
    await page.bringToFront();
  },

  "a user is terminated with one click": async () => {
    const user = fresh("user");
    const pusher = start({ user: { id: user } });
    const signedIn = next(pusher.user, "pusher:signin_success", undefined, "signin").catch(() => {});
    pusher.signin();
    const button = page.getByRole("button", { name: `Terminate user ${user}` });
    await button.waitFor();
    const ended = next(pusher.connection, "disconnected");
    await button.click();
    await Promise.race([ended, next(pusher.connection, "failed")]);
    await button.waitFor({ state: "detached" });
    void signedIn;
  },

  "2,000 events a second leave the page usable, and lose nothing": async () => {
    const name = fresh("flood"), pusher = await connect();
    const channel = await subscribe(pusher, name);
    let got = 0, sent = 0;
    channel.bind("flood", () => got++);
    const rare = fresh("rare"), began = performance.now(), answers = [];
    const event = { channel: name, name: "flood", data: { text: "x".repeat(100) } };
    const batch = Array.from({ length: 10 }, () => event);
    await page.evaluate((text) => {
      globalThis.rare = 0; // lines that have been there, if only for a moment
      const count = (changes) => (globalThis.rare += changes.flatMap((c) => [...c.addedNodes]).filter((e) => e.textContent.includes(text)).length);
      new MutationObserver(count).observe(document.getElementById("lines"), { childList: true });
    }, rare);
    const flood = (async () => {
      const out = new Set();
      while (performance.now() - began < 10_000) {
        const due = Math.floor((performance.now() - began) * 2) - sent; // 2,000 a second
        if (due < 10 || out.size > 20 || sent - got > 2_000) {
          await new Promise((done) => setTimeout(done, 2));
          continue;
        }
        sent += 10;
        const one = server.triggerBatch(batch).finally(() => out.delete(one));
        out.add(one);
      }
      await Promise.all(out);
      return (sent / (performance.now() - began)) * 1000;
    })();
    for (let i = 0; i < 9; i++) {
      await new Promise((done) => setTimeout(done, 800)); // spread over the flood
      answers.push(await clickPause());
      await server.trigger(rare, "rare", {});
    }
    await page.waitForFunction("rare > 0"); // the flood does not hide it
    const rate = await flood;
    const last = next(channel, "last");
    await server.trigger(name, "last", {});
    await last;
    equal(got, sent, "events that arrived");
    answers.sort((a, b) => a - b);
    console.log(`${Math.round(rate)} events a second; a click is answered after ${answers.map(Math.round)} ms`);
    soon(answers[4], 200, `a click is answered: ${answers}`);
    if (rate > 300) await page.getByText("came too fast to show").waitFor(); // the feed takes 150 a second
    equal(await page.locator("#lines li").count() <= 300, true, "lines on the page");
    await page.getByRole("button", { name: "Clear" }).click();
  },

  "it looks good, and axe-core finds nothing": async () => {
    await scene();
    await looksGood(page, "wide");
    const phone = await open({ width: 390, height: 844 }, page.context());
    await phone.goto(address);
    await phone.locator("#live.on").waitFor();
    await scene();
    for (const panel of ["Feed", "Send", "Channels", "Clients"]) {
      await phone.getByRole("navigation").getByRole("button", { name: panel }).click();
      await looksGood(phone, `phone-${panel.toLowerCase()}`);
    }
    equal(await phone.evaluate("document.documentElement.scrollWidth"), 390, "width of the page on a phone");
  },

  "signing out ends it, and the secret is nowhere": async () => {
    const kept = await page.evaluate("JSON.stringify([localStorage, sessionStorage, location.href, document.cookie, document.documentElement.outerHTML])");
    equal(kept.includes(edge.secret), false, "the secret is kept on the page");
    equal(seen.some((text) => text.includes(edge.secret)), false, "the secret is in an address or a header");
    await page.getByRole("button", { name: "Sign out" }).click();
    await page.getByLabel("App secret").waitFor();
    equal(page.complaints.filter((c) => !/status of 40[13]|status of 400/.test(c)), [], "errors on the page");
    receiver.close();
    await browser.close();
  },
});

/** A page of its own, or in a context that is there, that notes what goes wrong on it and what it asks for. */
async function open(viewport, context) {
  const opened = await (context ?? (await browser.newContext({ bypassCSP: false }))).newPage();
  await opened.setViewportSize(viewport);
  opened.setDefaultTimeout(TIMEOUT_MS);
  opened.complaints = [];
  opened.on("pageerror", (err) => opened.complaints.push(err.message));
  opened.on("console", (message) => message.type() === "error" && opened.complaints.push(message.text()));
  opened.on("request", (request) => seen.push(`${request.url()} ${JSON.stringify(request.headers())}`));
  return opened;
}

/** Has a page believe that it is hidden or visible, which pages of a headless browser always are. */
function turn(on, state) {
  return on.evaluate((state) => {
    for (const [name, value] of [["visibilityState", state], ["hidden", state === "hidden"]]) {
      Object.defineProperty(document, name, { configurable: true, value });
    }
    document.dispatchEvent(new Event("visibilitychange"));
  }, state);
}

/** How long it takes until a line with both texts is there after something was done, on the page's own clock. */
async function shown(on, kind, text, act) {
  const wait = on.evaluate(
    ([kind, text, limit]) =>
      new Promise((done, fail) => {
        const look = () => {
          const li = [...document.querySelectorAll("#lines li")].find((e) => e.textContent.includes(kind) && e.textContent.includes(text));
          if (li) done(Date.now());
          return li;
        };
        const observer = new MutationObserver(() => look() && observer.disconnect());
        observer.observe(document.getElementById("lines"), { childList: true });
        setTimeout(() => fail(new Error(`no line with ${kind} and ${text}`)), limit);
      }),
    [kind, text, TIMEOUT_MS],
  );
  await on.evaluate("0"); // the observer is there
  const began = Date.now();
  await act();
  return (await wait) - began;
}

/** Fails unless it took at most this long; of a machine that may be busy only that nothing hangs is asked. */
function soon(took, most, what) {
  const limit = full ? most : 10_000;
  equal(took <= limit, true, `within ${limit} ms ${what}`);
}

/** Does something, and waits until the element has had the text, if only for a moment. */
async function had(locator, text, act) {
  const wait = locator.evaluate(
    (e, [text, limit]) =>
      new Promise((done, fail) => {
        new MutationObserver(() => e.textContent.includes(text) && done()).observe(e, { childList: true, characterData: true, subtree: true });
        setTimeout(() => fail(new Error(`it never had ${text}`)), limit);
      }),
    [text, TIMEOUT_MS],
  );
  await locator.evaluate("0"); // the observer is there
  await act();
  await wait;
}

/** Clicks Pause twice, and returns how long the first takes from the browser's having it until the answer is painted. */
async function clickPause() {
  const took = page.evaluate(
    () =>
      new Promise((done) => {
        const answered = (click) => requestAnimationFrame(() => setTimeout(() => done(performance.now() - click.timeStamp)));
        document.getElementById("pause").addEventListener("click", answered, { once: true });
      }),
  );
  const { x, y, width, height } = await page.locator("#pause").boundingBox();
  await page.mouse.click(x + width / 2, y + height / 2);
  const answer = await took;
  equal(await page.locator("#pause").getAttribute("aria-pressed"), "true", "paused");
  await page.mouse.click(x + width / 2, y + height / 2);
  return answer;
}

/** Something of everything, for the pictures. */
async function scene() {
  const ada = await connect({ member: { user_id: "ada", user_info: { name: "Ada" } }, user: { id: "ada" } });
  const bob = await connect({ member: { user_id: "bob", user_info: { name: "Bob" } } });
  ada.signin();
  for (const pusher of [ada, bob]) await subscribe(pusher, "presence-lobby");
  const orders = await subscribe(ada, "private-orders");
  await subscribe(bob, "private-orders");
  await server.trigger("private-orders", "order.created", { id: 1041, total: "19.90", items: ["tea", "cups"] });
  orders.trigger("client-typing", { user: "ada" });
  bob.connection.send_event("pusher:subscribe", { channel: "private-invoices", auth: `${edge.key}:${"0".repeat(64)}` });
  await server.trigger("orders", "order.created", { id: 1042 });
  await server.get({ path: "/channels" });
  await page.locator("li.void", { hasText: "orders" }).first().waitFor();
  await page.locator("#connectionList", { hasText: "user ada" }).waitFor();
}

/** Has axe-core judge the page in light and dark, and takes its picture. */
async function looksGood(on, name) {
  for (const colorScheme of ["light", "dark"]) {
    await on.emulateMedia({ colorScheme, reducedMotion: "reduce" });
    // A script of ours may do what the page's policy does not allow its own to.
    const cdp = await on.context().newCDPSession(on);
    await cdp.send("Page.setBypassCSP", { enabled: true });
    await on.evaluate(axe);
    const { violations } = await on.evaluate("axe.run({ resultTypes: ['violations'] })");
    const found = violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.target.join(" ")).slice(0, 3).join(", ")}`);
    equal(found, [], `what axe-core finds in ${name}, ${colorScheme}`);
    await cdp.detach();
    if (pictures) await on.screenshot({ path: join(pictures, `${name}-${colorScheme}.png`) });
  }
  await on.emulateMedia({ colorScheme: "light" });
}
