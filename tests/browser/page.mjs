// node page.mjs URL PACK FOLDER CHROMIUM PLAYWRIGHT: what ComfyUI's page makes of the pack.
// Opens every template, runs one, wires Jodi Roles by hand; writes FOLDER/report.json and pictures.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";

const [url, pack, folder, executablePath, modules] = process.argv.slice(2);
const { chromium } = createRequire(join(modules, "x.js"))(join(modules, "playwright-core"));
const RUN_MS = 600_000;

async function open(context) {
  const here = new Set([new URL(url).hostname]);
  // The page asks for fonts, releases and telemetry elsewhere; only this machine is to be reached.
  await context.route(/.*/, (route) => {
    const asked = new URL(route.request().url());
    const local = here.has(asked.hostname) || ["data:", "blob:"].includes(asked.protocol);
    return local ? route.continue() : route.abort();
  });
  const page = await context.newPage();
  // A new user is greeted by a dialog over the graph.
  await page.request.post(`${url}/api/settings/Comfy.TutorialCompleted`, { data: true });
  await page.goto(url, { waitUntil: "domcontentloaded", timeout: 300_000 });
  const ready = () => Object.keys(globalThis.LiteGraph?.registered_node_types ?? {})
    .includes("JodiRoles") && Boolean(globalThis.app?.graph);
  await page.waitForFunction(ready, null, { timeout: 300_000 });
  await page.waitForTimeout(2000);
  await page.keyboard.press("Escape");
  return page;
}

// The graph as the page has it after loading: its nodes, what it would save, and what it would run.
async function load(page, name) {
  return page.evaluate(async ([file, title]) => {
    const graph = await (await fetch(file)).json();
    await app.loadGraphData(graph, true, true, title);
    await new Promise((done) => setTimeout(done, 500));
    const prompt = await app.graphToPrompt();
    const saved = app.graph.serialize();
    const dialogs = [...document.querySelectorAll(".p-dialog, [role=dialog]")];
    return {
      missing: app.graph._nodes.filter((n) => !LiteGraph.registered_node_types[n.type]).map((n) => n.type),
      flagged: app.graph._nodes.filter((n) => n.has_errors).map((n) => n.id),
      nodes: saved.nodes.map((n) => ({ id: n.id, type: n.type, values: n.widgets_values ?? [] })),
      links: saved.links.map((l) => Array.isArray(l) ? l.slice(1, 5)
        : [l.origin_id, l.origin_slot, l.target_id, l.target_slot]),
      prompt: prompt.output,
      dialogs: dialogs.map((d) => d.innerText.slice(0, 400)),
    };
  }, [`${url}/api/workflow_templates/${pack}/${name}.json`, name]);
}

async function show(page, file) {
  await page.keyboard.press("Escape");
  await page.evaluate(() => {
    const boxes = app.graph._nodes.map((n) => [n.pos[0], n.pos[1] - 30, n.pos[0] + n.size[0], n.pos[1] + n.size[1]]);
    const low = [0, 1].map((i) => Math.min(...boxes.map((b) => b[i])) - 40);
    const high = [2, 3].map((i) => Math.max(...boxes.map((b) => b[i])) + 40);
    const { clientWidth, clientHeight } = app.canvas.canvas;
    const scale = Math.min((clientWidth - 120) / (high[0] - low[0]), (clientHeight - 160) / (high[1] - low[1]));
    app.canvas.ds.scale = scale;
    app.canvas.ds.offset = [70 / scale - low[0], 130 / scale - low[1]];
    app.canvas.setDirty(true, true);
  });
  await page.waitForTimeout(1500);
  await page.screenshot({ path: join(folder, file) });
}

// Press Run; the pictures that appear on nodes, by node id, and what went wrong.
async function run(page) {
  await page.evaluate(() => {
    globalThis.ended = null;
    app.api.addEventListener("execution_error", (e) => { globalThis.ended = e.detail; });
    app.api.addEventListener("execution_success", () => { globalThis.ended = "success"; });
    return app.queuePrompt(0, 1);
  });
  await page.waitForFunction(() => globalThis.ended !== null, null, { timeout: RUN_MS });
  await page.waitForTimeout(3000);
  return page.evaluate(async () => {
    const pictures = {};
    for (const [id, output] of Object.entries(app.nodeOutputs)) {
      for (const image of output.images ?? []) {
        const response = await app.api.fetchApi(`/view?${new URLSearchParams(image)}`);
        const bitmap = await createImageBitmap(await response.blob());
        (pictures[id] ??= []).push([bitmap.width, bitmap.height]);
      }
    }
    const drawn = app.graph._nodes.filter((n) => n.imgs?.some((i) => i.naturalWidth > 0)).map((n) => n.id);
    const elements = [...document.querySelectorAll("img")].filter((i) => i.src.includes("/view?") && i.naturalWidth > 0);
    return { ended: globalThis.ended, pictures, drawn, elements: elements.length };
  });
}

// Drag a wire from Load Image to the depth socket of Jodi Roles with the mouse.
async function wire(page) {
  const [from, to] = await page.evaluate(async () => {
    app.graph.clear();
    const source = LiteGraph.createNode("EmptyImage");
    const roles = LiteGraph.createNode("JodiRoles");
    source.pos = [100, 120];
    roles.pos = [600, 120];
    app.graph.add(source);
    app.graph.add(roles);
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [0, 0];
    app.canvas.setDirty(true, true);
    await new Promise((done) => setTimeout(done, 1000));
    const slot = roles.inputs.findIndex((input) => input.name === "depth");
    const box = app.canvas.canvas.getBoundingClientRect();
    const place = ([x, y]) => [x + box.left, y + box.top];
    return [place(source.getConnectionPos(false, 0)), place(roles.getConnectionPos(true, slot))];
  });
  await page.mouse.move(...from);
  await page.mouse.down();
  await page.mouse.move((from[0] + to[0]) / 2, (from[1] + to[1]) / 2, { steps: 5 });
  await page.mouse.move(...to, { steps: 5 });
  await page.mouse.up();
  await page.waitForTimeout(500);
  await page.screenshot({ path: join(folder, "wired.png") });
  return page.evaluate(() => {
    const roles = app.graph._nodes.find((n) => n.type === "JodiRoles");
    return roles.inputs.filter((input) => input.link != null).map((input) => input.name);
  });
}

const profile = mkdtempSync(join(tmpdir(), "chromium-"));
const context = await chromium.launchPersistentContext(profile, {
  executablePath, headless: true, viewport: { width: 1800, height: 1000 },
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
const report = { errors: [], templates: {} };
try {
  const page = await open(context);
  page.on("pageerror", (error) => report.errors.push(error.message.split("\n")[0]));
  const listed = await (await page.request.get(`${url}/api/workflow_templates`)).json();
  for (const name of listed[pack]) {
    report.templates[name] = await load(page, name);
    await show(page, `${name}.png`);
  }
  await load(page, "perceive_everything");
  report.run = await run(page);
  await show(page, "ran.png");
  report.wired = await wire(page);
} finally {
  writeFileSync(join(folder, "report.json"), JSON.stringify(report));
  await context.close();
  rmSync(profile, { recursive: true, force: true });
}
