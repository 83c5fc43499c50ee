// Uses the types that openapi-typescript makes, with openapi-fetch; prints what it got. Arguments: URL FILE.
import { readFile } from "node:fs/promises";
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

type Classification = components["schemas"]["Classification"];

const [baseUrl, file] = process.argv.slice(2);
const client = createClient<paths>({ baseUrl });
const blob = new Blob([await readFile(file)]);

/** A form with this file in each of the fields; the body of a request is typed, but a file has no type in OpenAPI. */
function formOf(...names: string[]): FormData {
  const form = new FormData();
  for (const name of names) form.append(name, blob, "photo.png");
  return form;
}

const one = { body: { image: "" }, bodySerializer: () => formOf("image") };
const { data, error } = await client.POST("/v1/classify", { params: { query: { top_k: 1 } }, ...one });
if (error) throw new Error(error.detail);
const answer: Classification = data;
console.log(answer.predictions[0].label);

const two = { body: { images: [] }, bodySerializer: () => formOf("images", "images") };
const batch = await client.POST("/v1/classify/batch", two);
console.log(batch.data?.results.length);

const heatMap = await client.POST("/v1/explain", { params: { query: { label: "bag", method: "cam" } }, ...one });
if (typeof heatMap.data !== "object") throw new Error("not JSON");
console.log(heatMap.data.label, heatMap.data.map.length);

const labels = await client.GET("/v1/labels");
console.log(labels.data?.labels.length);

const refused = await client.POST("/v1/explain", { params: { query: { label: "unknown" } }, ...one });
console.log(refused.response.status, refused.error?.code);
