// Proves that the example page works in a real browser: the browser build of pusher-js, loaded by a script tag, joins
// a public, a private and a presence channel of edge, two pages see the same events, and see each other come and go.
// Needs chromium on the PATH. With EDGE_SCREENSHOT=path, leaves a picture of both pages' room there.

import { TIMEOUT_MS, equal, run, server } from "../node/lib.mjs";
import { launch } from "./launch.mjs";
import { query, serve } from "./serve.mjs";

const browser = await launch();

const address = await serve();

await run({
  "two pages share channels, events and a room": async () => {
    const ada = await visit("Ada");
    const bob = await visit("Bob");
    await shows(ada, "#presence li", ["Ada (you)", "Bob"]);
    await shows(bob, "#presence li", ["Ada", "Bob (you)"]);

    await server.trigger(["news", "private-news"], "message", { from: "API", text: "<b>to all</b>" });
    for (const page of [ada, bob]) {
      await shows(page, "#public li", ["API: <b>to all</b>"]);
      await shows(page, "#private li", ["API: <b>to all</b>"]);
    }

    await ada.getByLabel("Message").fill("hello");
    await ada.getByLabel("Channel").selectOption("private-news");
    await ada.getByRole("button", { name: "Send" }).click();
    for (const page of [ada, bob]) await shows(page, "#private li", ["Ada: hello", "API: <b>to all</b>"]);
    if (process.env.EDGE_SCREENSHOT) await ada.screenshot({ path: process.env.EDGE_SCREENSHOT, fullPage: true });

    await bob.close();
    await shows(ada, "#presence li", ["Ada (you)"]);
    await shows(ada, "#presence [role=status]", ["1 in the room"]);
    equal(ada.complaints, [], "errors on the page");
    await browser.close();
  },
});

/** Opens the page as someone and waits until all three channels are joined. */
async function visit(name) {
  const page = await browser.newPage({ viewport: { width: 960, height: 540 } });
  page.setDefaultTimeout(TIMEOUT_MS);
  page.complaints = [];
  page.on("pageerror", (err) => page.complaints.push(err.message));
  page.on("console", (message) => message.type() === "error" && page.complaints.push(message.text()));
  await page.goto(`${address}?${query}&name=${name}`);
  await shows(page, "#state", ["connected"]);
  await shows(page, "#public [role=status]", ["joined"]);
  await shows(page, "#private [role=status]", ["joined"]);
  await page.locator("#presence [role=status]", { hasText: "in the room" }).waitFor();
  return page;
}

/** Waits until the elements have these texts, in this order, and fails with what is there instead. */
async function shows(page, selector, texts) {
  const read = `JSON.stringify([...document.querySelectorAll(${JSON.stringify(selector)})].map((e) => e.textContent))`;
  const same = `${read} === ${JSON.stringify(JSON.stringify(texts))}`;
  await page.waitForFunction(same, undefined, { timeout: TIMEOUT_MS }).catch(() => {}); // the next line says it better
  equal(JSON.parse(await page.evaluate(read)), texts, `text of ${selector} (page errors: ${page.complaints})`);
}
