// What a person does on ComfyUI's page, and what is to be seen there afterwards.
// The selectors hold for the pages of ComfyUI 0.8 (frontend 1.35) to 0.33 (frontend 1.49).
import { join } from "node:path";

const PATIENCE = 120_000; // ms for one step, on a machine that does other things too
const CARD = "template-workflow-";

// In the page: the open graph as it would be saved and run, and what does not hold together in it.
const READ = async () => {
  const { nodes, links } = app.graph.serialize();
  const known = (n) => n.isSubgraphNode?.() || Boolean(LiteGraph.registered_node_types[n.type]);
  const wires = links.map((l) => (Array.isArray(l) ? l.slice(0, 5)
    : [l.id, l.origin_id, l.origin_slot, l.target_id, l.target_slot]));
  const node = (id) => app.graph.getNodeById(id);
  const broken = wires.filter(([id, from, output, to, input]) =>
    !node(from)?.outputs[output]?.links?.includes(id) || node(to)?.inputs[input]?.link !== id);
  return {
    missing: app.graph._nodes.filter((n) => !known(n)).map((n) => n.type),
    flagged: app.graph._nodes.filter((n) => n.has_errors).map((n) => n.id),
    broken,
    nodes: nodes.map((n) => ({ id: n.id, type: n.type, values: n.widgets_values ?? [] })),
    links: wires.map((wire) => wire.slice(1)),
    prompt: (await app.graphToPrompt()).output,
  };
};

export class Page {
  constructor(page, url, folder) {
    Object.assign(this, { page, url, folder });
    page.setDefaultTimeout(PATIENCE);
  }

  async open() {
    await this.page.goto(this.url, { waitUntil: "domcontentloaded" });
    await this.page.waitForFunction(() => Boolean(globalThis.app?.graph)
      && "JodiRoles" in (globalThis.LiteGraph?.registered_node_types ?? {}));
  }

  shot(file) {
    return this.page.screenshot({ path: join(this.folder, file) });
  }

  // One of the tabs at the left: "templates", "node-library", "workflows".
  sidebar(tab) {
    return this.page.locator(`.${tab}-tab-button`).first().click();
  }

  // The pack's own shelf in the template browser. A new user is greeted by that dialog; afterwards
  // it is behind a button.
  async shelf(pack) {
    const entry = this.page.getByRole("dialog").getByText(pack, { exact: true }).first();
    const greeting = this.greeted ? entry.isVisible()
      : entry.waitFor({ timeout: 10_000 }).then(() => true, () => false);
    this.greeted = true;
    if (!await greeting) {
      await this.closeDialogs();
      await this.sidebar("templates");
    }
    await entry.click();
    await this.page.locator(`[data-testid^=${CARD}] img`).first().waitFor();
  }

  // The cards on that shelf, when their pictures have come: a picture is asked for when its card
  // comes into view.
  async cards(pack) {
    await this.shelf(pack);
    const found = [];
    for (const card of await this.page.locator(`[data-testid^=${CARD}]`).all()) {
      await card.scrollIntoViewIfNeeded();
      const picture = card.locator("img").first();
      await picture.waitFor();
      await this.page.waitForFunction((image) => image.complete, await picture.elementHandle());
      found.push({
        name: (await card.getAttribute("data-testid")).slice(CARD.length),
        pictures: await card.locator("img").evaluateAll((all) => all.map((i) => i.naturalWidth)),
        text: await card.innerText(),
      });
    }
    return found;
  }

  // Click the card of a template; the graph that opens.
  async template(pack, name) {
    await this.shelf(pack);
    await this.page.getByTestId(CARD + name).scrollIntoViewIfNeeded();
    await this.page.getByTestId(CARD + name).click();
    await this.page.waitForFunction((wanted) => app.graph._nodes.length > 0
      && app.extensionManager.workflow.activeWorkflow?.filename === wanted, name);
    await this.page.getByTestId(CARD + name).waitFor({ state: "hidden" });
    await this.page.waitForTimeout(500); // dialogs about missing things come last
    const dialogs = await this.page.getByRole("dialog").allInnerTexts();
    await this.closeDialogs();
    return { dialogs, scale: await this.page.evaluate(() => app.canvas.ds.scale), ...await this.page.evaluate(READ) };
  }

  async closeDialogs() {
    for (let i = 0; i < 5 && await this.page.getByRole("dialog").count(); i++) {
      await this.page.keyboard.press("Escape");
      await this.page.waitForTimeout(500);
    }
  }

  // Press Run; how it ended, and the pictures on the nodes once they are there: {id: [[w, h]]}.
  async run() {
    await this.page.evaluate(() => {
      globalThis.ended = null;
      app.api.addEventListener("execution_error", (e) => { globalThis.ended = e.detail; }, { once: true });
      app.api.addEventListener("execution_success", () => { globalThis.ended = "success"; }, { once: true });
    });
    await this.page.getByTestId("queue-button").click();
    await this.page.waitForFunction(() => globalThis.ended !== null);
    const waiting = () => app.graph._nodes.every((n) => !app.nodeOutputs[n.id]?.images
      || (n.imgs?.length > 0 && n.imgs.every((i) => i.complete)));
    await this.page.waitForFunction(waiting, null, { timeout: 60_000 }).catch(() => {});
    await this.page.waitForTimeout(1000); // the canvas draws them with its next frames
    return this.page.evaluate(() => ({
      ended: globalThis.ended,
      drawn: Object.fromEntries(app.graph._nodes.filter((n) => n.imgs?.length)
        .map((n) => [n.id, n.imgs.map((i) => [i.naturalWidth, i.naturalHeight])])),
      texts: Object.fromEntries(app.graph._nodes.filter((n) => n.type === "PreviewAny")
        .map((n) => [n.id, n.widgets.map((w) => String(w.value))])),
    }));
  }

  // A new workflow with nodes at places: [type, x, y] each; their ids.
  place(...nodes) {
    return this.page.evaluate(async (wanted) => {
      await app.extensionManager.command.execute("Comfy.NewBlankWorkflow");
      app.canvas.ds.scale = 1;
      app.canvas.ds.offset = [0, 0];
      const made = wanted.map(([type, x, y]) => {
        const node = LiteGraph.createNode(type);
        node.pos = [x, y];
        app.graph.add(node);
        return node.id;
      });
      app.canvas.setDirty(true, true);
      await new Promise((done) => setTimeout(done, 500));
      return made;
    }, nodes);
  }

  // Drag wires with the mouse from an image to two sockets of Jodi Roles.
  async wire() {
    const [image, roles] = await this.place(["EmptyImage", 150, 200], ["JodiRoles", 650, 120]);
    for (const name of ["image", "depth"]) {
      const [from, to] = await this.page.evaluate(([source, target, socket]) => {
        const box = app.canvas.canvas.getBoundingClientRect();
        const [a, b] = [app.graph.getNodeById(source), app.graph.getNodeById(target)];
        const slot = b.inputs.findIndex((input) => input.name === socket);
        return [a.getConnectionPos(false, 0), b.getConnectionPos(true, slot)]
          .map(([x, y]) => [x + box.left, y + box.top]);
      }, [image, roles, name]);
      await this.page.mouse.move(...from);
      await this.page.mouse.down();
      await this.page.mouse.move((from[0] + to[0]) / 2, (from[1] + to[1]) / 2, { steps: 5 });
      await this.page.mouse.move(...to, { steps: 5 });
      await this.page.mouse.up();
      await this.page.waitForTimeout(500);
    }
    const sockets = await this.page.evaluate((id) => app.graph.getNodeById(id).inputs.map((i) => i.name), roles);
    return { image, roles, sockets, ...await this.page.evaluate(READ) };
  }

  // Take a blueprint from the node library onto an empty graph; what is in the box.
  async blueprint(name) {
    await this.place();
    const field = this.page.getByPlaceholder(/^Search/).first();
    if (!await field.isVisible()) await this.sidebar("node-library");
    await field.fill(name);
    await this.page.locator(".side-bar-panel, .sidebar-content-container").getByText(name).first().click();
    await this.page.waitForTimeout(1000);
    // newer pages hang the box on the mouse until the graph is clicked
    await this.page.mouse.move(1000, 400, { steps: 4 });
    await this.page.mouse.click(1000, 400);
    await this.page.waitForFunction(() => app.graph._nodes.length === 1);
    await this.sidebar("node-library");
    return this.page.evaluate(() => {
      const [box] = app.graph._nodes;
      const inside = box.subgraph._nodes;
      return {
        title: box.title,
        inputs: box.inputs.filter((i) => !i.widget).map((i) => [i.name, i.type]),
        outputs: box.outputs.map((o) => [o.name, o.type]),
        widgets: Object.fromEntries(box.widgets.map((w) => [w.name, w.value])),
        inside: inside.map((n) => n.type),
        missing: inside.filter((n) => !LiteGraph.registered_node_types[n.type]).map((n) => n.type),
      };
    });
  }

  // A picture through that box, one of its outputs shown.
  async runBoxed(name) {
    await this.blueprint(name);
    const shown = await this.page.evaluate(() => {
      const [box] = app.graph._nodes;
      const [image, show] = ["EmptyImage", "PreviewImage"].map((type) => LiteGraph.createNode(type));
      image.pos = [box.pos[0] - 300, box.pos[1]];
      show.pos = [box.pos[0] + 400, box.pos[1]];
      [image, show].forEach((node) => app.graph.add(node));
      const set = (key, value) => { image.widgets.find((w) => w.name === key).value = value; };
      set("width", 64);
      set("height", 64);
      set("color", 0x4080c0);
      image.connect(0, box, box.inputs.findIndex((i) => i.name === "image"));
      box.connect(box.outputs.findIndex((o) => o.name === "depth"), show, 0);
      return show.id;
    });
    return { shown, ...await this.run() };
  }

  // A run that one of our nodes refuses: what the page says of it without being asked.
  async refused() {
    await this.place(["JodiExample", 400, 200], ["JodiPerceive", 750, 200], ["PreviewImage", 1150, 200]);
    await this.page.evaluate(() => {
      const [image, perceive, show] = app.graph._nodes;
      image.connect(0, perceive, 0);
      perceive.connect(0, show, 0);
      for (const widget of perceive.widgets) if (widget.value === true) widget.value = false;
    });
    await this.page.getByTestId("queue-button").click();
    const toast = this.page.locator(".p-toast-message", { hasText: "no label is ticked" }).first();
    await toast.waitFor();
    const said = await toast.innerText();
    const dialogs = await this.page.getByRole("dialog").allInnerTexts();
    return { said, dialogs };
  }

  // One of each of the pack's nodes with every value changed: saved with the keyboard, and opened
  // again from the sidebar of a page that remembers nothing.
  async saveAndReopen(name) {
    const types = await this.page.evaluate(() =>
      Object.keys(LiteGraph.registered_node_types).filter((type) => /^(Jodi|DDiT)/.test(type)).sort());
    await this.place(...types.map((type, i) => [type, 500 + 330 * (i % 6), 100 + 700 * Math.floor(i / 6)]));
    const values = () => this.page.evaluate(() =>
      app.graph.serialize().nodes.map((n) => [n.type, n.widgets_values ?? []]));
    const fresh = await values();
    await this.page.evaluate(() => {
      const other = (widget) => {
        const { value, options } = widget;
        const choices = typeof options?.values === "function" ? options.values() : options?.values;
        if (Array.isArray(choices)) return choices[(choices.indexOf(value) + 1) % choices.length];
        if (typeof value === "boolean") return !value;
        if (typeof value === "number") return value + (options.step2 || options.step || 1) > options.max
          ? options.min : value + (options.step2 || options.step || 1);
        return `${value} red ball`;
      };
      for (const node of app.graph._nodes) {
        for (const widget of node.widgets ?? []) widget.value = other(widget);
      }
    });
    const before = await values();
    await this.page.mouse.click(250, 500); // beside the nodes: the page looks for changes on a click
    await this.page.keyboard.press("Control+s");
    const dialog = this.page.getByRole("dialog");
    await dialog.getByRole("textbox").fill(name);
    await this.page.keyboard.press("Enter");
    await this.page.waitForFunction((wanted) => {
      const workflow = app.extensionManager.workflow.activeWorkflow;
      return workflow.filename === wanted && workflow.isPersisted && !workflow.isModified;
    }, name);
    await this.page.evaluate(() => { localStorage.clear(); sessionStorage.clear(); });
    await this.open();
    await this.page.waitForTimeout(2000);
    await this.closeDialogs();
    await this.sidebar("workflows");
    await this.page.locator(".side-bar-panel, .sidebar-content-container").getByText(name).first().click();
    await this.page.waitForFunction((wanted) =>
      app.extensionManager.workflow.activeWorkflow?.filename === wanted && app.graph._nodes.length > 10, name);
    return { types, fresh, before, after: await values() };
  }
}
