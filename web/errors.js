// An error of a Jodi node is told where it is seen at once. Newer pages say only that there was one.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

app.registerExtension({
  name: "jodi.errors",
  setup() {
    api.addEventListener("execution_error", ({ detail }) => {
      if (!detail?.exception_type?.startsWith("jodi.")) return;
      const node = app.graph?.getNodeById?.(Number(detail.node_id));
      app.extensionManager?.toast?.add({
        severity: "error",
        summary: node?.title ?? detail.node_type,
        detail: detail.exception_message.trim(),
        life: 20_000,
      });
    });
  },
});
