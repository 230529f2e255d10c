// Requests to the service beside this page, wherever it is mounted.

export const base = new URL(".", location.href);
const KEY = "router-core-api-key";

export function apiKey() {
  return sessionStorage.getItem(KEY) || "";
}

export function setApiKey(value) {
  if (value) sessionStorage.setItem(KEY, value);
  else sessionStorage.removeItem(KEY);
}

// Paths of the description do not know the prefix that the service is mounted under.
export function at(path) {
  return new URL(path.replace(/^\/+/, ""), base);
}

// Links in an answer do; only those to this origin are followed, and get the key.
export function link(path) {
  const url = new URL(path, location.href);
  if (url.origin !== location.origin) throw new Error("a link to another origin");
  return url;
}

export function call(path, options = {}) {
  const headers = new Headers(options.headers || {});
  if (apiKey()) headers.set("Authorization", `Bearer ${apiKey()}`);
  return fetch(path instanceof URL ? path : at(path), { ...options, headers, credentials: "omit" });
}

// Server-sent events over fetch: EventSource could not send the API key.
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest = (rest + value).replace(/\r\n?/g, "\n");
      let end;
      while ((end = rest.indexOf("\n\n")) >= 0) {
        const event = parse(rest.slice(0, end));
        rest = rest.slice(end + 2);
        if (event.data !== "") yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parse(block) {
  const event = { type: "message", data: "", id: "" };
  const data = [];
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    if (colon === 0) continue;
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "event") event.type = value;
    else if (name === "data") data.push(value);
    else if (name === "id") event.id = value;
  }
  event.data = data.join("\n");
  return event;
}
