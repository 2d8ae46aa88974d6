// Drives a real browser through the page; called by test_page.py as: node browse.mjs ADDRESS CHROMIUM OUT
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [address, executablePath, out, root] = process.argv.slice(2);
const { chromium } = createRequire(pathToFileURL(`${root}/`))("playwright-core");
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
const facts = { errors: [] };
const page = await browser.newPage({ viewport: { width: 1000, height: 1050 }, colorScheme: "light" });
page.on("pageerror", (error) => facts.errors.push(String(error)));
page.on("console", (message) => message.type() === "error" && facts.errors.push(message.text()));
// The socket is kept where the test can drop it.
await page.addInitScript(() => {
  const Real = window.WebSocket;
  window.WebSocket = class extends Real {
    constructor(...args) {
      super(...args);
      window.theSocket = this;
      window.sockets = (window.sockets ?? 0) + 1;
    }
  };
});
const frame = () => page.evaluate(() => Number(document.getElementById("output").dataset.frame ?? -1));
const after = (n) => page.waitForFunction((n) => Number(document.getElementById("output").dataset.frame ?? -1) > n, n, { timeout: 20000 });
const picture = () =>
  page.evaluate(() => {
    const canvas = document.getElementById("output");
    return [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data].filter((_, k) => k % 4 === 0);
  });
const far = (a, b) => a.reduce((sum, value, k) => sum + Math.abs(value - b[k]), 0) / a.length;

await page.goto(address);
await after(5);
facts.title = await page.title();
facts.state = await page.textContent("#state");
await page.screenshot({ path: `${out}/page_light.png` });

// The pad is an unmoving source: what changes then is what the controls change.
await page.selectOption("#source", "pad");
await page.locator("#input").focus();
await page.keyboard.down(" ");
for (const key of [...Array(12).fill("ArrowDown"), ...Array(4).fill("ArrowRight")]) await page.keyboard.press(key);
await page.keyboard.up(" ");
await after((await frame()) + 12); // what is drawn shows with the next frame that is sent
facts.drawn = await page.evaluate(() => {
  const canvas = document.getElementById("input");
  return Math.max(...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.filter((_, k) => k % 4 === 0));
});
const before = await picture();
await after((await frame()) + 3);
facts.steady = far(before, await picture());
const classes = await page.locator("select[name='cond.label'] option").count();
await page.selectOption("select[name='cond.label']", { index: classes - 1 });
await page.locator("input[name='guidance']").fill("1.5");
await after((await frame()) + 15);
const changed = await picture();
facts.changed = far(before, changed);

// A value that is refused is said where it was set.
await page.evaluate(() => window.theSocket.send(JSON.stringify({ type: "settings", settings: { steps: 99 } })));
await page.waitForSelector("#settings-error:not([hidden])");
facts.refused = await page.textContent("#settings-error");

// The connection is lost and comes back, with the settings that were chosen.
await page.evaluate(() => window.theSocket.close());
await page.waitForFunction(() => window.sockets >= 2, null, { timeout: 10000 });
await after((await frame()) + 0);
await page.waitForTimeout(1500);
facts.restored = await page.textContent("#state");
facts.kept = await page.locator("select[name='cond.label']").inputValue();
facts.last = String(classes - 2);

const [download] = await Promise.all([page.waitForEvent("download"), page.click("#snapshot")]);
await download.saveAs(`${out}/snapshot.png`);
await page.keyboard.press("Escape");
await page.locator("#output").click();
await page.keyboard.press("p");
facts.paused = await page.getAttribute("#pause", "aria-pressed");
await page.keyboard.press("p");

await page.selectOption("#source", "clip");
await after((await frame()) + 10);
facts.fps = Number(await page.textContent("#fps"));
const dark = await browser.newPage({ viewport: { width: 1000, height: 1050 }, colorScheme: "dark" });
await dark.goto(address);
await dark.waitForFunction(() => Number(document.getElementById("output").dataset.frame ?? -1) > 20, null, { timeout: 20000 });
await dark.screenshot({ path: `${out}/page_dark.png` });
const phone = await browser.newPage({ viewport: { width: 360, height: 740 } });
await phone.goto(address);
await phone.waitForFunction(() => Number(document.getElementById("output").dataset.frame ?? -1) > 20, null, { timeout: 20000 });
facts.overflow = await phone.evaluate(() => document.documentElement.scrollWidth - innerWidth);
await phone.screenshot({ path: `${out}/page_phone.png` });
await browser.close();
console.log(JSON.stringify(facts));
