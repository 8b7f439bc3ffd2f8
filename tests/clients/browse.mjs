/**
 * Opens a page that kseg.runtime.page wrote in headless Chromium, as somebody with a mouse would.
 *
 * browse.mjs BROWSER URL WIDTH SHOT.png [IMAGE...]
 *
 * Prints JSON: "status", what the page says in the end; "wider", by how many pixels it is wider than its window; and for
 * each IMAGE, chosen in turn, its "status" and "legend" in "chosen", and its classes as the page's own kseg.mjs gives
 * them, base64 of int32, in "classes". SHOT.png is a picture of the page at last.
 */

import { readFile } from "node:fs/promises";
import { chromium } from "playwright-core";

const [executablePath, url, width, shot, ...images] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-background-networking", "--disable-sync"],
});
const page = await browser.newPage({ viewport: { width: Number(width), height: 900 } });
await page.goto(url);

const settled = async () => {
  await page.waitForFunction(
    () => {
      const status = document.getElementById("status");
      return status.className === "error" || !status.textContent.includes("…");
    },
    null,
    { timeout: 120000 }
  );
  return page.textContent("#status");
};

const result = { status: await settled(), chosen: [], classes: [] };
for (const image of images) {
  await page.evaluate(() => (document.getElementById("status").textContent = "…"));
  await page.setInputFiles("#file", image);
  result.chosen.push({ status: await settled(), legend: await page.innerText("#legend") });
  const content = (await readFile(image)).toString("base64");
  const classes = await page.evaluate(async (encoded) => {
    const { load, pixels } = await import("./kseg.mjs");
    const { model } = await (await fetch("page.json")).json();
    const engine = await import(model.endsWith(".onnx") ? "onnxruntime-web/wasm" : "@litertjs/core");
    globalThis.predictor ??= await load(encodeURIComponent(model), engine);
    const bytes = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0));
    const found = await globalThis.predictor.indices(await pixels(new Blob([bytes])));
    return [...new Uint8Array(found.buffer)].map((byte) => String.fromCharCode(byte)).join("");
  }, content);
  result.classes.push(Buffer.from(classes, "latin1").toString("base64"));
}
result.wider = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
await page.screenshot({ path: shot });
await browser.close();
console.log(JSON.stringify(result));
