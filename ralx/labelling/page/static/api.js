// What the page asks of its server.

/** The server gave no answer: it is gone, or the network is. */
export class Unreachable extends Error {}

/** The server refused; `status` says why, the message says it in words. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const isRefused = (status) => (error) => error instanceof Refused && error.status === status;
export const isStranger = isRefused(401); // the server does not know this browser
export const isUnknown = isRefused(404); // no such region
export const isTaken = isRefused(409); // somebody else has the region
export const isChanged = isRefused(412); // another label of the region came in

async function ask(method, path, query = {}, options = {}) {
  let answer;
  try {
    answer = await fetch(`/api/${path}?${new URLSearchParams(query)}`, { method, ...options });
  } catch {
    throw new Unreachable("the server does not answer");
  }
  if (answer.ok) return answer;
  const { error } = await answer.json().catch(() => ({}));
  throw new Refused(answer.status, error || `the server failed (${answer.status})`);
}

const json = async (...request) => (await ask(...request)).json();
const region = (id, what) => `regions/${encodeURIComponent(id)}/${what}`;

async function bytes(path) {
  const answer = await ask("GET", path);
  return {
    content: answer.status === 204 ? null : await answer.arrayBuffer(),
    etag: answer.headers.get("etag"),
  };
}

export const project = () => json("GET", "project");
export const situation = () => json("GET", "batch");
export const startBatch = () => json("POST", "batch");
export const next = (annotator) => json("POST", "next", { annotator });
export const open = (id, annotator) => json("POST", region(id, "open"), { annotator });
export const release = (id, annotator) =>
  navigator.sendBeacon(`/api/${region(id, "release")}?${new URLSearchParams({ annotator })}`);

export const crop = async (id) => createImageBitmap(await (await ask("GET", region(id, "crop"))).blob());
export const label = (id) => bytes(region(id, "label"));
export const guess = async (id) => (await bytes(region(id, "guess"))).content;
export const superpixels = async (id) => (await bytes(region(id, "superpixels"))).content;

export const save = (id, annotator, { label, etag, seconds, unsure }) =>
  json(
    "PUT",
    region(id, "label"),
    { annotator, seconds: seconds.toFixed(2), unsure: unsure ? 1 : 0 },
    { body: label, headers: { "if-match": etag } },
  );
