// node page.mjs URL PACK FOLDER CHROMIUM PLAYWRIGHT: what ComfyUI's page makes of the pack.
// Does with mouse and keys what a newcomer does; writes FOLDER/report.json and pictures.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Page } from "./steps.mjs";

const [url, pack, folder, executablePath, modules] = process.argv.slice(2);
const { chromium } = createRequire(join(modules, "x.js"))(join(modules, "playwright-core"));
const FIRST = "perceive_everything";
const BLUEPRINTS = ["Image to All Labels (Jodi)", "Depth and Normals to Image (Jodi)", "Image to Depth (Jodi)",
  "Image to Normals (Jodi)", "Image to Pose (Jodi)", "Any Labels to Image (Jodi)"];

const began = Date.now();
const report = { errors: [], templates: {}, blueprints: {}, seconds: {} };

// One step of the visit: its result goes into the report, its time too.
async function step(name, work) {
  const start = Date.now();
  try {
    return await work();
  } catch (error) {
    error.message = `${name}: ${error.message}`;
    throw error;
  } finally {
    report.seconds[name] = (Date.now() - start) / 1000;
  }
}

async function visit(page) {
  await step("open", () => page.open());
  report.cards = await step("cards", () => page.cards(pack));
  // The newcomer's path: the card, Run, pictures.
  report.templates[FIRST] = await step(FIRST, () => page.template(pack, FIRST));
  report.run = await step("run", () => page.run());
  await page.shot("ran.png");
  for (const name of report.cards.map((card) => card.name).filter((name) => name !== FIRST)) {
    report.templates[name] = await step(name, () => page.template(pack, name));
    await page.shot(`${name}.png`);
  }
  report.wired = await step("wire", () => page.wire());
  await page.shot("wired.png");
  for (const name of BLUEPRINTS) {
    report.blueprints[name] = await step(name, () => page.blueprint(name));
    await page.shot(`${name}.png`);
  }
  report.boxed = await step("boxed", () => page.runBoxed(BLUEPRINTS[0]));
  report.refused = await step("error", () => page.refused());
  await page.shot("error.png");
  report.saved = await step("save", () => page.saveAndReopen("every node"));
  await page.shot("reopened.png");
}

const profile = mkdtempSync(join(tmpdir(), "chromium-"));
const context = await chromium.launchPersistentContext(profile, {
  executablePath, headless: true, viewport: { width: 1600, height: 900 },
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
let page;
try {
  // The page asks for fonts, releases and telemetry elsewhere; only this machine is to be reached.
  await context.route(/.*/, (route) => {
    const asked = new URL(route.request().url());
    const local = asked.hostname === new URL(url).hostname || ["data:", "blob:"].includes(asked.protocol);
    return local ? route.continue() : route.abort();
  });
  page = new Page(await context.newPage(), url, folder);
  page.page.on("pageerror", (error) => report.errors.push(error.message.split("\n")[0]));
  await visit(page);
} catch (error) {
  await page?.shot("failed.png").catch(() => {});
  throw error;
} finally {
  report.seconds.all = (Date.now() - began) / 1000;
  writeFileSync(join(folder, "report.json"), JSON.stringify(report));
  await context.close();
  rmSync(profile, { recursive: true, force: true });
}
