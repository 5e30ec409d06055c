// Starts the browser that the programs here drive.

import { accessSync, constants } from "node:fs";
import { createRequire } from "node:module";
import { delimiter, join } from "node:path";
import { TIMEOUT_MS } from "../node/lib.mjs";

const { chromium } = createRequire(new URL("../node/package.json", import.meta.url))("playwright-core");

/** A headless browser with a profile directory of its own, gone when it closes. */
export function launch(...args) {
  return chromium.launch({
    executablePath: onPath("chromium", "chromium-browser", "google-chrome"),
    headless: true,
    timeout: TIMEOUT_MS,
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      ...args,
    ],
  });
}

function onPath(...programs) {
  for (const program of programs) {
    for (const directory of process.env.PATH.split(delimiter)) {
      const path = join(directory, program);
      try {
        accessSync(path, constants.X_OK);
        return path;
      } catch {
        continue;
      }
    }
  }
  console.log(`FAIL: none of ${programs.join(", ")} is on the PATH`);
  process.exit(1);
}
