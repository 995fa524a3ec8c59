// The way to the server: the token, questions, and what is followed.

const KEY = "regatta-token";

// The token is in the part of the address that browsers do not send. It is kept for this tab and this server, and taken out of the
// address. A cookie would go to every port of this machine, whoever listens there.
export const takeToken = () => {
  const found = /^#t=([0-9a-f]{64})$/i.exec(location.hash);
  if (!found) return false;
  sessionStorage.setItem(KEY, found[1]);
  history.replaceState(null, "", `${location.pathname}${location.search}#/`);
  return true;
};

export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

const send = async (method, path, parameters, signal) => {
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const query = new URLSearchParams(given).toString();
  const answer = await fetch(`/api/v1/${path}${query ? `?${query}` : ""}`, {
    method,
    headers: { authorization: `Bearer ${sessionStorage.getItem(KEY) ?? ""}` },
    credentials: "omit",
    redirect: "error",
    signal,
  });
  const text = await answer.text();
  if (answer.ok) return text;
  let why = text.trim();
  try {
    why = JSON.parse(text).error;
  } catch {
    // It is in words already.
  }
  throw new Refused(answer.status, why);
};

export const ask = async (path, parameters = {}, signal = undefined) => JSON.parse(await send("GET", path, parameters, signal));
export const askText = (path, parameters = {}, signal = undefined) => send("GET", path, parameters, signal);
export const order = async (path) => JSON.parse(await send("POST", path, {}, undefined));

// What a change makes of a value: [value] puts it in place, [] takes it away, an object goes into what is there.
export const changed = (value, change) => {
  if (Array.isArray(change)) return change[0];
  if (Array.isArray(value)) {
    const next = value.slice(0, change["#"] ?? value.length);
    for (const [at, one] of Object.entries(change)) if (at !== "#") next[at] = changed(value[at], one);
    return next;
  }
  const next = { ...value };
  for (const [key, one] of Object.entries(change)) {
    if (Array.isArray(one) && one.length === 0) delete next[key];
    else next[key] = changed(value[key], one);
  }
  return next;
};

export const pause = (ms, signal) =>
  new Promise((done) => {
    const timer = setTimeout(done, ms);
    signal?.addEventListener("abort", () => (clearTimeout(timer), done()), { once: true });
  });

const isSeen = (signal) =>
  new Promise((done) => {
    if (!document.hidden) return done();
    const look = () => {
      if (document.hidden && !signal.aborted) return;
      document.removeEventListener("visibilitychange", look);
      done();
    };
    document.addEventListener("visibilitychange", look);
    signal.addEventListener("abort", look, { once: true });
  });

const ONCE = new URLSearchParams(location.search).has("once");

// Tells of a thing whenever it has changed, while the page is seen, until the signal. With ?once it is told once.
export const follow = async (path, parameters, signal, tell, fail) => {
  let value, revision;
  let wait = 500;
  while (!signal.aborted) {
    await isSeen(signal);
    try {
      const told = await ask(path, { ...parameters, after: revision }, signal);
      value = told.from === null ? told.change[0] : changed(value, told.change);
      if (revision !== told.revision) tell(value);
      revision = told.revision;
      fail(null);
      if (ONCE) return;
      wait = 500;
    } catch (error) {
      if (signal.aborted) return;
      fail(error);
      // It stays so however often one asks.
      if (error instanceof Refused && [400, 401, 403, 404, 421].includes(error.status)) return;
      wait = Math.min(wait * 2, 15000);
    }
    await pause(wait, signal);
  }
};

// Asks again and again for what is not followed.
export const again = async (every, signal, act, fail) => {
  while (!signal.aborted) {
    await isSeen(signal);
    try {
      await act();
      fail(null);
    } catch (error) {
      if (signal.aborted) return;
      fail(error);
      if (error instanceof Refused && [400, 401, 403, 404, 421].includes(error.status)) return;
    }
    if (ONCE) return;
    await pause(every, signal);
  }
};
