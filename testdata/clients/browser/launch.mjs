// Starts a headless Chromium with a profile of its own, which is gone when it closes.

import { accessSync, constants } from "node:fs";
import { createRequire } from "node:module";
import { delimiter, join } from "node:path";

const { chromium } = createRequire(new URL("../node/package.json", import.meta.url))("playwright-core");

export function launch() {
  return chromium.launch({
    executablePath: onPath("chromium", "chromium-browser", "google-chrome"),
    headless: true,
    timeout: 60_000,
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
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
