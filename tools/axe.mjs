// Check pages with axe-core in headless Chromium: node tools/axe.mjs BASE_ADDRESS PAGE... (run by `make docs-axe`).
// Each page is seen at 390 and 1440 pixels, light and dark. Ends with 1 where a score (rules passed of all that apply) is below 95%.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const require = createRequire(process.env.AXE_HOME ? `${process.env.AXE_HOME}/` : import.meta.url);
const puppeteer = require("puppeteer-core");
const source = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const [base, ...pages] = process.argv.slice(2);
const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu"],
});
let worst = 100;
for (const page of pages) {
  for (const width of [390, 1440]) {
    for (const scheme of ["light", "dark"]) {
      const context = await browser.createBrowserContext(); // remembers no color scheme of the page before
      const tab = await context.newPage();
      await tab.setViewport({ width, height: 900 });
      await tab.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
      await tab.goto(new URL(page, base), { waitUntil: "load" });
      await new Promise((done) => setTimeout(done, 900));
      if (process.env.SHOTS) await tab.screenshot({ path: `${process.env.SHOTS}/${page.replaceAll("/", "_") || "home"}-${width}-${scheme}.png` });
      await tab.evaluate(source);
      const found = await tab.evaluate(() => window.axe.run(document));
      const score = (100 * found.passes.length) / (found.passes.length + found.violations.length);
      worst = Math.min(worst, score);
      console.log(`${page || "home"} ${width} ${scheme}: ${score.toFixed(1)}%, ${found.passes.length} rules passed`);
      for (const rule of found.violations) {
        console.log(`  ${rule.impact}: ${rule.id}: ${rule.help} (${rule.nodes.length}), first ${rule.nodes[0].html.slice(0, 160)}`);
      }
      await context.close();
    }
  }
}
await browser.close();
console.log(`lowest score ${worst.toFixed(1)}%`);
process.exit(worst < 95 ? 1 : 0);
